"""The page's arithmetic, run by Node, against Python's pixels."""

import io
import json
import shutil
import subprocess
from importlib.resources import files

import cv2
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from cxr_data.augment import whole
from cxr_data.images.dicom import decode_dicom
from cxr_data.images.header import BrokenImage
from cxr_data.images.read import fit_image, read_image
from cxr_deploy.predict import unusual

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="no Node on the path")

SCRIPT = """
import { readFileSync } from "node:fs";
import { fit, reduceBlocks, resemblance, resize } from PIXELS;
import { readDicom } from DICOM;
import { checkJpeg, checkPng } from FILES;
const given = JSON.parse(readFileSync(0, "utf8"));
const answers = given.map((one) => {
  if (one.dicom) {
    try {
      const { image, lateral } = readDicom(new Uint8Array(readFileSync(one.dicom)), one.window);
      return { data: Array.from(image.data), lateral };
    } catch (error) {
      return { refused: error.message };
    }
  }
  if (one.file) {
    try {
      (one.file.endsWith(".png") ? checkPng : checkJpeg)(new Uint8Array(readFileSync(one.file)));
      return {};
    } catch (error) {
      return { refused: error.message };
    }
  }
  const image = { data: Uint8Array.from(one.data), width: one.width, height: one.height, top: 255 };
  if (one.factor) return { data: Array.from(reduceBlocks(image, one.factor).data) };
  if (one.average) return { data: resemblance(image, one.average, 16) };
  const stored = fit(image, one.size, one.aspect, one.window);
  return { data: Array.from(stored.data), whole: Array.from(resize(stored, one.view, one.view).data) };
});
console.log(JSON.stringify(answers));
"""


def run(cases, tmp_path):
    place = files("cxr_deploy.web")
    for name in ("pixels", "dicom", "files"):  # as modules, which Node tells by the suffix
        (tmp_path / f"{name}.mjs").write_text(place.joinpath(f"{name}.js").read_text("utf-8"))
    script = (
        SCRIPT.replace("PIXELS", '"./pixels.mjs"').replace("DICOM", '"./dicom.mjs"').replace("FILES", '"./files.mjs"')
    )
    (tmp_path / "main.mjs").write_text(script)
    done = subprocess.run(
        [str(NODE), str(tmp_path / "main.mjs")], input=json.dumps(cases), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_squares_are_those_of_python(tmp_path):
    rng = np.random.default_rng(0)
    cases, expected = [], []
    shapes = [(300, 200), (97, 131), (256, 256), (40, 30), (50, 200), (128, 64), (400, 512)]
    for i, (height, width) in enumerate(shapes * 3):
        aspect, window = ("squash", "crop", "pad")[i % 3], ("voi", "percentile")[(i // 3) % 2]
        image = cv2.GaussianBlur(rng.integers(0, 256, (height, width), np.uint8), (0, 0), 2) + np.uint8(i)
        cases.append(
            {"data": image.ravel().tolist(), "width": width, "height": height, "size": 64, "view": 48}
            | {"aspect": aspect, "window": window}
        )
        stored = fit_image(image, 64, aspect=aspect, window=window)
        expected.append((stored, whole(stored[None], 48)[0]))
    for case, actual, (stored, view) in zip(cases, run(cases, tmp_path), expected, strict=True):
        # OpenCV enlarges 8-bit images in fixed point: one level either way.
        difference = np.abs(np.reshape(actual["data"], (64, 64)).astype(int) - stored)
        limit = 1 if case["window"] == "voi" else 8  # a level before stretching is several after
        assert difference.max() <= limit, case["aspect"]
        assert difference.mean() < limit / 4
        assert np.abs(np.reshape(actual["whole"], (48, 48)).astype(int) - view).max() <= limit


@pytest.mark.parametrize("shape", [(257, 512), (512, 257)])
def test_half_a_row_is_rounded_to_even_in_a_padded_square(tmp_path, shape):
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, shape, np.uint8), (0, 0), 4)
    expected = fit_image(image, 256, aspect="pad", window="voi")
    case = {"data": image.ravel().tolist(), "width": shape[1], "height": shape[0], "size": 256, "view": 48}
    (actual,) = run([{**case, "aspect": "pad", "window": "voi"}], tmp_path)
    assert np.abs(np.reshape(actual["data"], (256, 256)).astype(int) - expected).max() <= 1


def test_large_jpegs_are_reduced_as_their_decoder_does(tmp_path, shared_data):
    file = sorted((shared_data / "formats" / "kermany_fullsize" / "NORMAL").iterdir())[0]
    full = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    assert full is not None
    full = full[: full.shape[0] // 8 * 8, : full.shape[1] // 8 * 8]
    flags = {2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 8: cv2.IMREAD_REDUCED_GRAYSCALE_8}
    case = {"data": full.ravel().tolist(), "width": full.shape[1], "height": full.shape[0]}
    for factor, actual in zip(flags, run([{**case, "factor": f} for f in flags], tmp_path), strict=True):
        shape = full.shape[0] // factor, full.shape[1] // factor
        theirs = cv2.imread(str(file), flags[factor])
        assert theirs is not None
        difference = np.abs(np.reshape(actual["data"], shape) - theirs[: shape[0], : shape[1]].astype(int))
        assert difference.mean() < 0.2, factor
        assert np.quantile(difference, 0.999) <= 1, factor


def test_dicom_values_are_those_of_python(tmp_path, shared_data):
    dataset = dcmread(sorted((shared_data / "formats" / "dicom").iterdir())[0])
    dataset.decompress()
    gray = cv2.resize(dataset.pixel_array, (60, 50), interpolation=cv2.INTER_AREA)
    cases, expected = [], []
    variants = [
        {"PhotometricInterpretation": "MONOCHROME2"},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"bits": 12, "WindowCenter": 1700, "WindowWidth": 2600},
        {"bits": 12, "WindowCenter": [900, 3], "WindowWidth": [1500, 4], "VOILUTFunction": "SIGMOID"},
        {"bits": 12, "WindowCenter": 900, "WindowWidth": 1500, "VOILUTFunction": "LINEAR_EXACT"},
        {"bits": 12, "RescaleSlope": 2, "RescaleIntercept": -1024},
        {"bits": 12, "PixelPaddingValue": 100, "implicit": True},
        {"bits": 12, "PixelRepresentation": 1, "PhotometricInterpretation": "MONOCHROME1"},
        {"ViewPosition": "LL"},
    ]
    for i, variant in enumerate(variants):
        one = dcmread(sorted((shared_data / "formats" / "dicom").iterdir())[0])
        one.decompress()
        bits = variant.pop("bits", 8)
        scale = 6 if "PixelRepresentation" in variant else 13  # signed values of 12 bits end at 2047
        values = gray.astype(np.uint16) * scale + 100 if bits > 8 else gray
        values[:3] = 100 if bits > 8 else 0
        one.Rows, one.Columns, one.PixelData = *values.shape, values.tobytes()
        one.BitsAllocated, one.BitsStored, one.HighBit = (16, 12, 11) if bits > 8 else (8, 8, 7)
        one["PixelData"].VR = "OW"
        implicit = variant.pop("implicit", False)
        for name, value in variant.items():
            setattr(one, name, value)
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        one.file_meta.TransferSyntaxUID = syntax
        path = tmp_path / f"{i}.dcm"
        one.save_as(path, implicit_vr=implicit, little_endian=True)
        for window in ("voi", "full"):
            cases.append({"dicom": str(path), "window": window})
            expected.append((decode_dicom(path.read_bytes(), window), variant))
    for actual, (values, variant) in zip(run(cases, tmp_path), expected, strict=True):
        np.testing.assert_allclose(np.reshape(actual["data"], values.shape), values, atol=2e-6, err_msg=str(variant))
        assert actual["lateral"] == ("ViewPosition" in variant and variant["ViewPosition"] == "LL")


def test_dicom_whose_bytes_contradict_its_header_is_refused_or_shown_as_python_shows_it(tmp_path):
    smooth = cv2.GaussianBlur(np.random.default_rng(0).normal(0, 1, (80, 60)), (0, 0), 8)
    gray = np.rint((smooth - smooth.min()) / np.ptp(smooth) * 4000).astype(np.uint16)
    corner = np.where(np.add.outer(np.arange(80), np.arange(60)) < 12, 1, 0).astype(np.uint16)
    padded = np.where(corner == 1, -32768, gray.astype(np.int32) - 2000).astype(np.int16)
    variants = [
        (gray, {}),
        (gray << 4, {"HighBit": 15}),
        (gray, {"HighBit": 15}),
        (gray | corner << 13, {}),
        (gray * 16, {}),
        (np.stack([gray, gray]), {"Rows": 80, "Columns": 60}),
        (gray, {"Rows": 79}),
        (gray, {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}),
        (gray, {"PhotometricInterpretation": ""}),
        (gray, {"WindowCenter": 40_000, "WindowWidth": 100}),
        (gray, {"WindowCenter": 32_768, "WindowWidth": 65_536}),
        (gray, {"WindowCenter": 2000, "WindowWidth": 1500}),
        (padded, {"PixelPaddingValue": ("US", 32_768), "BitsStored": 16, "HighBit": 15}),
        (padded, {"PixelPaddingValue": ("SS", -32_768), "BitsStored": 16, "HighBit": 15}),
        (padded, {"PixelPaddingValue": ("IS", "-32768"), "BitsStored": 16, "HighBit": 15}),
        (gray | corner * 0xFFF, {"PixelPaddingValue": ("SS", -1)}),
        (gray | corner * 0xFFFF, {"PixelPaddingValue": ("US", 0xFFFF)}),
        (gray, {"PixelPaddingValue": ("US", 0), "PixelPaddingRangeLimit": ("US", 3999)}),
        *((gray, {"Rows": rows, "Columns": 4800 // rows}) for rows in (40, 50, 60, 120)),
        (gray.byteswap(), {"BitsStored": 16, "HighBit": 15}),
        (gray * 16, {"BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1}),
        (gray, {"PresentationLUTShape": "INVERSE"}),
        (gray, {"PhotometricInterpretation": "MONOCHROME3"}),
        (gray, {"WindowCenter": [9, 2000], "WindowWidth": [0, 1500]}),
        (gray, {"RescaleIntercept": "50000000", "WindowCenter": 50_002_000, "WindowWidth": 3000}),
        (gray, {"WindowCenter": 2000, "WindowWidth": 1500, "VOILUTFunction": "GAMMA"}),
        (gray, {"behind": b"\x28\0\x50\x10DS\4\x001700\x28\0\x51\x10DS\4\x002600"}),
        (gray, {"WindowCenter": 9, "WindowWidth": 9, "behind": b"\x28\0\x50\x10DS\4\x001700"}),
        (gray, {"behind": b"\x28\0\4\0CS\x0c\0MONOCHROME1 "}),
        (gray, {"behind": bytes(128) + b"DICM\2\0\0\0UL\4\0\0\0\0\0"}),
        (gray, {"behind": bytes(99)}),
        (gray, {"behind": b"\xff" * 99}),
    ]
    cases = []
    for i, (values, tags) in enumerate(variants):
        made = Dataset()
        made.file_meta = FileMetaDataset()
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made.file_meta.MediaStorageSOPClassUID = made.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
        made.Rows, made.Columns, made.SamplesPerPixel = *values.shape[-2:], 1
        made.PhotometricInterpretation, made.PixelRepresentation = "MONOCHROME2", int(values.dtype.kind == "i")
        made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelData = 16, 12, 11, values.tobytes()
        behind = tags.pop("behind", b"")
        for name, value in tags.items():
            made.add_new(name, *value) if isinstance(value, tuple) else setattr(made, name, value)
        made["PixelData"].VR = "OW"
        made.save_as(tmp_path / f"{i}.dcm", enforce_file_format=True)
        with open(tmp_path / f"{i}.dcm", "ab") as file:
            file.write(behind)
        cases.append({"dicom": str(tmp_path / f"{i}.dcm"), "window": "voi"})
    shown = []
    for i, (case, actual) in enumerate(zip(cases, run(cases, tmp_path), strict=True)):
        try:
            expected = decode_dicom((tmp_path / f"{i}.dcm").read_bytes(), "voi")
        except BrokenImage:
            assert "refused" in actual, variants[i][1]
            continue
        if "refused" not in actual:
            np.testing.assert_allclose(np.reshape(actual["data"], expected.shape), expected, atol=2e-6)
            shown.append(case)
    assert len(shown) >= 8


def test_files_that_a_browser_would_show_wrongly_are_refused(tmp_path):
    gray = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (64, 56), np.uint8), (0, 0), 2)
    colours = np.stack([gray, gray, 255 - gray], axis=-1)

    def pillow(mode, kind, **options):
        file = io.BytesIO()
        image = Image.fromarray(gray).convert(mode)
        image.save(file, kind, **options)
        return file.getvalue()

    def encoded(suffix, image, *options):
        return cv2.imencode(suffix, image, options)[1].tobytes()

    png, jpeg = encoded(".png", gray), encoded(".jpg", gray)
    scan = jpeg.index(b"\xff\xda") + 40
    sound = {
        "gray.png": png,
        "colour.png": encoded(".png", colours),
        "palette.png": pillow("P", "PNG"),
        "gray.jpg": jpeg,
        "colour.jpg": encoded(".jpg", colours),
        "progressive.jpg": encoded(".jpg", colours, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        "restarts.jpg": encoded(".jpg", gray, cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
        "exif.jpg": pillow("L", "JPEG", exif=Image.Exif().tobytes()),
        "trailing.jpg": jpeg + b"more",
    }
    wrong = {
        "deep.png": encoded(".png", gray.astype(np.uint16) * 16),
        "cut.png": png[: len(png) // 2],
        "no end.png": png[:-12],
        "flipped.png": png[:60] + bytes([png[60] ^ 1]) + png[61:],
        "animated.png": pillow("L", "PNG", save_all=True, append_images=[Image.fromarray(255 - gray)]),
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "no end.jpg": jpeg[:-2],
        "header.jpg": jpeg[:30],
        "marker.jpg": jpeg[:scan] + b"\xff\x17" + jpeg[scan + 2 :],
        "inks.jpg": pillow("CMYK", "JPEG"),
        "two.jpg": jpeg[:-2] + jpeg[2:],
    }
    for name, content in (sound | wrong).items():
        (tmp_path / name).write_bytes(content)
    actual = run([{"file": str(tmp_path / name)} for name in sound | wrong], tmp_path)
    assert [name for name, one in zip(sound | wrong, actual, strict=True) if one] == list(wrong)
    assert "16 bits" in actual[len(sound)]["refused"]


def test_resemblance_is_pythons(tmp_path, shared_data):
    images = [read_image(file, 64) for file in sorted((shared_data / "covid_cxr").rglob("*.jpg"))[:3]]
    average = unusual.AVERAGE.ravel().tolist()
    cases = [{"data": image.ravel().tolist(), "width": 64, "height": 64, "average": average} for image in images]
    for image, actual in zip(images, run(cases, tmp_path), strict=True):
        assert actual["data"] == pytest.approx(unusual.resemblance(image), abs=0.01)
