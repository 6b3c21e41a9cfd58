# SPDX-License-Identifier: BSD-3-Clause
"""The minute files of a data acquisition system: what is written, copied and merged.

Three streams, one file a UT minute each, in folders of the UT day:

================  =================================  ==========================================
``raw``           ``YYYYMMDD/raw_YYMMDD_MMMM.bin``   what the ADC measured, all channels
``pointing``      ``YYYYMMDD/MMMM``                  the telescope's pointing log, 100 Hz
``housekeeping``  ``YYYYMMDD/enc_YYMMDD_MMMM.jsonl``  rotator 10 Hz, telescope and weather 1 Hz
================  =================================  ==========================================

``naming`` names them, ``channels`` says which quantity is on which channel, ``lines`` which status
line of the telescope is which, ``telinfo`` is the telescope's own record of housekeeping.
"""
