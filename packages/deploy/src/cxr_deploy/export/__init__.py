"""A classifier as one file that needs no PyTorch: ONNX in float32 and 8 bits, and a page that runs it in a browser."""
