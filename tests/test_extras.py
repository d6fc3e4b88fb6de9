"""What needs an extra that is not installed names the package and the extra, in Python and on the command line."""

import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless

from cxr_deploy import demo

MODULES = {
    "cxr-data[codecs]": ["gdcm", "jpeg_ls", "openjpeg", "pylibjpeg"],
    "cxr-data[dask]": ["distributed"],
    "cxr-deploy[export]": ["torch", "onnx", "cxr_common"],
    "cxr-deploy[hub]": ["huggingface_hub"],
    "cxr-deploy[openvino]": ["openvino"],
}
"""Extra -> the modules it brings; cxr-common[imagenet] is tested with the weights it brings."""
COMMAND = "import sys; from {} import {} as command; sys.exit(command(sys.argv[1:]))"
DATA = COMMAND.format("cxr_data.cli", "main")
PREDICT = COMMAND.format("cxr_deploy.cli", "predict")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two class folders of PNG files, a folder of JPEG-LS DICOM files, and two models."""
    folder = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    for number in range(4):
        pixels = rng.integers(0, 256, (32, 32), np.uint8)
        file = folder / "images" / ("NORMAL", "ILL")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), pixels)
        made = Dataset()
        made.Rows, made.Columns, made.SamplesPerPixel = *pixels.shape, 1
        made.BitsAllocated = made.BitsStored = 8
        made.HighBit, made.PixelRepresentation, made.PhotometricInterpretation = 7, 0, "MONOCHROME2"
        made.PixelData = pixels.tobytes()
        made.file_meta = FileMetaDataset()
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made.SOPClassUID, made.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", f"1.2.{number}"
        made.compress(JPEGLSLossless, encoding_plugin="pyjpegls")
        file = folder / "dicom" / file.parent.name / f"{number}.dcm"
        file.parent.mkdir(parents=True, exist_ok=True)
        made.save_as(file, enforce_file_format=True)
    (folder / "model.safetensors").touch()
    shutil.copy(Path(demo.__file__).parent / "model.int8.onnx", folder / "model.onnx")
    return folder


@pytest.mark.parametrize(
    ("extra", "code", "arguments"),
    [
        ("cxr-data[codecs]", "from cxr_data import read_image; read_image('dicom/ILL/1.dcm', 32)", None),
        ("cxr-data[codecs]", DATA, "prepare dicom --out cohort"),
        (
            "cxr-data[dask]",
            "from cxr_data.preparation import cluster; cluster.prepare_on_dask('images', 'c', '')",
            None,
        ),
        ("cxr-data[dask]", DATA, "prepare images --out cohort --dask tcp://localhost:1"),
        ("cxr-deploy[export]", "import cxr_deploy.export", None),
        ("cxr-deploy[export]", "import cxr_deploy; cxr_deploy.load('model.safetensors')", None),
        ("cxr-deploy[export]", COMMAND.format("cxr_deploy.cli", "export_model"), "model.safetensors"),
        ("cxr-deploy[export]", PREDICT, "model.safetensors images"),
        ("cxr-deploy[hub]", "import cxr_deploy; cxr_deploy.load('hf:owner/name')", None),
        ("cxr-deploy[hub]", PREDICT, "hf:owner/name images"),
        ("cxr-deploy[openvino]", "import cxr_deploy; cxr_deploy.load('model.onnx', runtime='openvino')", None),
        ("cxr-deploy[openvino]", PREDICT, "model.onnx images --runtime openvino"),
    ],
)
def test_a_missing_extra_is_named(extra, code, arguments, place):
    absent = f"import sys; sys.modules |= dict.fromkeys({MODULES[extra]!r})\n"
    call = [sys.executable, "-c", absent + code, *(arguments or "").split()]
    done = subprocess.run(call, cwd=place, capture_output=True, text=True, check=False)
    assert f"pip install '{extra}'" in done.stderr
    if arguments is not None:
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
