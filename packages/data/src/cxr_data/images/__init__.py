"""One radiograph: file to gray array (JPEG, PNG, TIFF, BMP, DICOM)."""
