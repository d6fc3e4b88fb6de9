"""Names of the explanation methods, for the command line and for reports: imports nothing."""

TITLES = {
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "layercam": "LayerCAM",
    "eigencam": "Eigen-CAM",
    "scorecam": "Score-CAM",
}
"""Title of every method of :data:`cxr_eval.explain.cams.METHODS`."""
