"""One radiograph: file to gray array (JPEG, PNG, TIFF, BMP, GIF, WebP, JPEG 2000, DICOM)."""
