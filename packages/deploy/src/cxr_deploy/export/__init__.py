"""From a network to one file that needs no PyTorch: ONNX in float32 and 8 bits. Needs the extra "export"."""

from cxr_deploy.extras import require

require("export", "exporting a network")
