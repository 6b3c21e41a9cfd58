# SPDX-License-Identifier: BSD-3-Clause
"""Frames in shared memory: files of the ImageStreamIO "2.00" layout, written and read.

:mod:`~nightjar.streams.layout` knows the bytes, :mod:`~nightjar.streams.writer` makes and fills
streams, :mod:`~nightjar.streams.reader` follows them and counts what it lost,
:mod:`~nightjar.streams.inspect` lists and describes them.
"""
