# SPDX-License-Identifier: BSD-3-Clause
"""FITS files: cards, header templates, a one-pass image writer, a fast reader and verifier.

Written from the FITS standard 4.0 (2018); numpy only, because a worker process that imports a
large astronomy package starts seconds later. Import from the modules:

===================  ================================================================
``cards``            :class:`~nightjar.fits.cards.Card`: one keyword, exactly 80 bytes
``header``           ordered headers, product templates, the fast header reader
``checksum``         the ones' complement sums behind DATASUM and CHECKSUM
``binning``          binned pixels, block by block
``pixels``           pixels to FITS bytes, in pieces that stay in the processor's cache
``writer``           whole files: temporary name, checksums, fsync, rename
``verify``           is this file whole and unchanged?
``spool``            reuse of files on a RAM disk, whose fresh pages cost more than the write
``hdus``             the units of a file, their headers read and their data stepped over
``frame_table``      rows of the table of a cube's frames: counters, times, sums
``timing_text``      the seven-column text of frame times, and a reader of old ones
``tiles``            lossless compression of a frame, and the header of a compressed cube
``rice``             the Rice coder of cfitsio
``tile_file``        the file of a compressed cube, growing tile by tile
``tile_reader``      frames out of compressed cubes; what a killed writer left behind
``compressed_cube``  a compressed cube that is logged, compression in other threads
===================  ================================================================
"""
