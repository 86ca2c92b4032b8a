"""The JPEG filter: every reader of an episode sees plain arrays."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import simplejpeg

from recorder import jpeg_filter
from recorder.jpeg_filter import FILTER_ID, GREY, RGB, parameters
from teleop.errors import EpisodeError

HEIGHT, WIDTH = 48, 64
HDFGROUP_FILE = Path(os.environ.get("TANDEM_HDFGROUP_JPEG", "hdfgroup_jpeg_example.h5"))
"""Written by the HDF Group's own plugin (github.com/HDFGroup/hdf5_plugins); not in our tree."""


def ramp(channels: int) -> np.ndarray:
    """A smooth picture that JPEG keeps nearly as it is."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    planes = [2 * x + y, 3 * y, 200 - x][:channels]
    return np.stack(planes, axis=-1).astype(np.uint8)


def dataset(file: h5py.File, colour: int) -> h5py.Dataset:
    """Two frames, filtered."""
    shape = (2, HEIGHT, WIDTH, 3) if colour == RGB else (2, HEIGHT, WIDTH)
    values = (95, WIDTH, HEIGHT, colour)
    return file.create_dataset(
        "image", shape, "u1", chunks=(1, *shape[1:]), compression=FILTER_ID, compression_opts=values
    )


@pytest.mark.parametrize("colour", [GREY, RGB])
def test_what_is_written_through_the_filter_reads_back(tmp_path: Path, colour: int) -> None:
    """Grey and colour images survive encoding and decoding within JPEG's error."""
    picture = ramp(3) if colour == RGB else ramp(1)[..., 0]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset(file, colour)[1] = picture
    with h5py.File(tmp_path / "a.h5") as file:
        read = file["image"][1]
    assert np.abs(read.astype(int) - picture).max() <= 12
    assert np.abs(read.astype(int) - picture).mean() < 2


def test_jpeg_bytes_written_past_the_filter_decode_exactly(tmp_path: Path) -> None:
    """A camera's own JPEG, stored as it came, reads as the pixels libjpeg makes of it."""
    jpeg = simplejpeg.encode_jpeg(ramp(3), quality=80)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset(file, RGB).id.write_direct_chunk((0, 0, 0, 0), jpeg)
    with h5py.File(tmp_path / "a.h5") as file:
        assert np.array_equal(file["image"][0], simplejpeg.decode_jpeg(jpeg))
        assert file["image"].id.read_direct_chunk((0, 0, 0, 0))[1] == jpeg


def test_the_parameters_are_those_of_the_registered_filter(tmp_path: Path) -> None:
    """Quality, width, height, 1 for colour."""
    assert parameters(95, WIDTH, HEIGHT) == (95, WIDTH, HEIGHT, 1)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        identity, _, values, _ = dataset(file, RGB).id.get_create_plist().get_filter(0)
    assert (identity, values) == (32019, (95, WIDTH, HEIGHT, 1))


def test_a_chunk_that_is_no_jpeg_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    """Reading it raises; frames beside it stay readable."""
    jpeg = simplejpeg.encode_jpeg(ramp(3))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        images = dataset(file, RGB)
        images.id.write_direct_chunk((0, 0, 0, 0), b"\xff\xd8 this is not a picture")
        images.id.write_direct_chunk((1, 0, 0, 0), jpeg)
    with h5py.File(tmp_path / "a.h5") as file:
        with pytest.raises(OSError, match="filter"):
            file["image"][0]
        assert file["image"][1].shape == (HEIGHT, WIDTH, 3)


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    """A larger image would overrun the reader's memory."""
    large = simplejpeg.encode_jpeg(np.zeros((HEIGHT * 2, WIDTH, 3), np.uint8))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        images = dataset(file, RGB)
        images.id.write_direct_chunk((0, 0, 0, 0), large)
    with h5py.File(tmp_path / "a.h5") as file, pytest.raises(OSError, match="filter"):
        file["image"][0]


def test_registering_again_changes_nothing() -> None:
    """Importing the package twice, or calling it by hand, is harmless."""
    jpeg_filter.register()
    assert h5py.h5z.filter_avail(FILTER_ID)


def test_an_unreachable_hdf5_library_is_named(tmp_path: Path) -> None:
    """The message says which file was tried and what to do."""
    foreign = tmp_path / "h5z.so"
    foreign.write_bytes(b"nothing")
    with pytest.raises(EpisodeError, match=r"h5z\.so.*install h5py"):
        jpeg_filter._hdf5_library(str(foreign))


@pytest.mark.skipif(
    not HDFGROUP_FILE.exists(), reason="set TANDEM_HDFGROUP_JPEG to the HDF Group's example file"
)
def test_a_file_of_the_hdf_groups_plugin_reads() -> None:
    """Its two grey ramps of 512x1024, and its parameters are laid out as ours."""
    with h5py.File(HDFGROUP_FILE) as file:
        images = file["DS1"]
        identity, _, values, _ = images.id.get_create_plist().get_filter(0)
        assert (identity, values) == (FILTER_ID, (100, 1024, 512, GREY))
        raw = images.id.read_direct_chunk((0, 0, 0))[1]
        wanted = simplejpeg.decode_jpeg(raw, colorspace="GRAY")[..., 0]
        assert np.array_equal(images[0], wanted)
        assert np.array_equal(images[0][0, :6], np.arange(6))
