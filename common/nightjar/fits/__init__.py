# SPDX-License-Identifier: BSD-3-Clause
"""FITS files: cards, header templates, a one-pass image writer, a fast reader and verifier.

Written from the FITS standard 4.0 (2018); numpy only, because a worker process that imports a
large astronomy package starts seconds later. Import from the modules:

=================  ================================================================
``cards``          :class:`~nightjar.fits.cards.Card`: one keyword, exactly 80 bytes
``header``         ordered headers, product templates, the fast header reader
``checksum``       the ones' complement sums behind DATASUM and CHECKSUM
``binning``        binned pixels, block by block
``pixels``         pixels to FITS bytes, in pieces that stay in the processor's cache
``writer``         whole files: temporary name, checksums, fsync, rename
``verify``         is this file whole and unchanged?
``spool``          reuse of files on a RAM disk, whose fresh pages cost more than the write
=================  ================================================================
"""
