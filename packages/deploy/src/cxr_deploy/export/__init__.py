"""Export networks to ONNX files in float32 and 8 bits, which need no PyTorch. Needs the extra "export"."""

from cxr_deploy.extras import require

require("export", "exporting a network")
