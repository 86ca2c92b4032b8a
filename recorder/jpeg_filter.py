"""The registered HDF5 filter 32019 (JPEG), for this process.

Camera frames lie in an episode as the JPEG bytes the camera made, one per chunk. With this
filter h5py shows them as plain ``uint8`` arrays; the HDF Group's own plugin does the same
for other programs (github.com/HDFGroup/hdf5_plugins, JPEG/src/H5Zjpeg.c, whose parameters
and defaults are followed here: quality, width, height, 0 for grey or 1 for RGB; baseline
JPEG with the library's accurate transform and 4:2:0 colour).

HDF5 frees what a filter hands over, so memory must come from the very libhdf5 that h5py
uses. It is found through h5py's extension module, whose symbol lookup covers the libraries
it is linked to, wherever they came from (wheel, system package, conda).
"""

from __future__ import annotations

import ctypes
import logging
from typing import Any

import h5py
import numpy as np
import simplejpeg

from teleop.errors import EpisodeError

FILTER_ID = 32019
GREY = 0
RGB = 1

_FLAG_REVERSE = 0x0100
"""H5Z_FLAG_REVERSE: the filter is asked to decode."""
_CLASS_VERSION = 1
"""H5Z_CLASS_T_VERS."""

log = logging.getLogger(__name__)

_FilterFunction = ctypes.CFUNCTYPE(
    ctypes.c_size_t,  # bytes handed back, 0 on failure
    ctypes.c_uint,  # flags
    ctypes.c_size_t,  # number of parameters
    ctypes.POINTER(ctypes.c_uint),  # parameters
    ctypes.c_size_t,  # bytes handed in
    ctypes.POINTER(ctypes.c_size_t),  # size of the buffer
    ctypes.POINTER(ctypes.c_void_p),  # the buffer, to be replaced
)


class _FilterClass(ctypes.Structure):
    """``H5Z_class2_t`` of the HDF5 library."""

    _fields_ = [
        ("version", ctypes.c_int),
        ("id", ctypes.c_int),
        ("encoder_present", ctypes.c_uint),
        ("decoder_present", ctypes.c_uint),
        ("name", ctypes.c_char_p),
        ("can_apply", ctypes.c_void_p),
        ("set_local", ctypes.c_void_p),
        ("filter", _FilterFunction),
    ]


_registered: tuple[_FilterClass, ctypes.CDLL] | None = None
"""Kept alive: HDF5 holds pointers into it until the process ends."""


def parameters(quality: int, width: int, height: int) -> tuple[int, int, int, int]:
    """The filter parameters (``cd_values``) of colour images."""
    return (quality, width, height, RGB)


def register() -> None:
    """Make the filter known to this process's HDF5 library; doing it again changes nothing.

    Raises:
        EpisodeError: h5py's HDF5 library cannot be reached or refuses the filter.
    """
    global _registered
    if _registered is not None:
        return
    library = _hdf5_library(h5py.h5z.__file__)
    name = b"JPEG (tandem); see github.com/HDFGroup/hdf5_plugins"
    filter_class = _FilterClass(
        _CLASS_VERSION, FILTER_ID, 1, 1, name, None, None, _FilterFunction(_filter)
    )
    _registered = (filter_class, library)
    try:
        h5py.h5z.register_filter(ctypes.addressof(filter_class))
    except (RuntimeError, OSError, ValueError) as error:
        _registered = None
        raise EpisodeError(
            f"HDF5 {h5py.version.hdf5_version} refuses the JPEG filter {FILTER_ID} ({error}); "
            "install h5py 3.10 or newer from PyPI"
        ) from error


def _hdf5_library(extension: str) -> ctypes.CDLL:
    """The HDF5 library behind an h5py extension module, ready for its allocator."""
    try:
        library = ctypes.CDLL(extension)
        allocate, free = library.H5allocate_memory, library.H5free_memory
    except (OSError, AttributeError) as error:
        raise EpisodeError(
            f"cannot reach the HDF5 library of h5py through {extension} ({error}), so JPEG "
            "images cannot be read; install h5py 3.10 or newer from PyPI"
        ) from error
    allocate.restype, allocate.argtypes = ctypes.c_void_p, (ctypes.c_size_t, ctypes.c_bool)
    free.restype, free.argtypes = ctypes.c_int, (ctypes.c_void_p,)
    return library


def _filter(flags: int, count: int, values: Any, size: int, buffer_size: Any, buffer: Any) -> int:
    """What HDF5 calls per chunk; 0 tells it that the chunk cannot be read or written."""
    try:
        if count != 4:
            raise ValueError(f"filter has {count} parameters, expected 4")
        quality, width, height, colour = (int(values[i]) for i in range(4))
        chunk = (ctypes.c_ubyte * size).from_address(buffer[0])
        if flags & _FLAG_REVERSE:
            return _decode(chunk, width, height, colour, buffer_size, buffer)
        return _encode(chunk, quality, width, height, colour, buffer_size, buffer)
    except Exception as error:
        # an exception cannot pass through C; HDF5 raises its own error for the 0
        log.exception("JPEG chunk of %d bytes: %s", size, error)
        return 0


def _decode(chunk: Any, width: int, height: int, colour: int, buffer_size: Any, buffer: Any) -> int:
    data = memoryview(chunk).cast("B")
    found_height, found_width, _, _ = simplejpeg.decode_jpeg_header(data)
    if (found_width, found_height) != (width, height):
        raise ValueError(f"image is {found_width}x{found_height}, expected {width}x{height}")
    size = height * width * (3 if colour == RGB else 1)
    address = _allocate(size)
    try:
        simplejpeg.decode_jpeg(
            data,
            colorspace="RGB" if colour == RGB else "GRAY",
            buffer=(ctypes.c_ubyte * size).from_address(address),
            strict=False,  # cameras often leave stray bytes between markers
        )
    except ValueError:
        _free(address)
        raise
    return _hand_over(address, size, buffer_size, buffer)


def _encode(
    chunk: Any, quality: int, width: int, height: int, colour: int, buffer_size: Any, buffer: Any
) -> int:
    channels = 3 if colour == RGB else 1
    pixels = np.frombuffer(chunk, np.uint8).reshape(height, width, channels)
    data = simplejpeg.encode_jpeg(
        pixels,
        quality=min(max(quality, 1), 100),
        colorspace="RGB" if colour == RGB else "GRAY",
        colorsubsampling="420" if colour == RGB else "gray",
    )
    address = _allocate(len(data))
    ctypes.memmove(address, data, len(data))
    return _hand_over(address, len(data), buffer_size, buffer)


def _allocate(size: int) -> int:
    assert _registered is not None
    address = _registered[1].H5allocate_memory(size, False)
    if not address:
        raise MemoryError(f"no memory for an image of {size} bytes")
    return int(address)


def _free(address: int) -> None:
    assert _registered is not None
    _registered[1].H5free_memory(address)


def _hand_over(address: int, size: int, buffer_size: Any, buffer: Any) -> int:
    _free(buffer[0])
    buffer[0] = address
    buffer_size[0] = size
    return size
