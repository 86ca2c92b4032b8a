"""Episodes: recording them, reading them back, judging and repairing them.

Importing this package registers the JPEG filter, so that plain ``h5py`` reads our images.
"""

from recorder import jpeg_filter

jpeg_filter.register()
