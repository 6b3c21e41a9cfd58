# SPDX-License-Identifier: BSD-3-Clause
"""A simulated observatory whose truth is known: telescope, weather, status lines, ADC.

``sky`` turns places, ``patterns`` are ways to scan, ``timeline`` is what the telescope is asked to
do when, ``truth`` what it really does; all are functions of true UTC and a seed. ``adc`` is what a
DAS measures of it, ``das_clock`` what that DAS thinks the time is. ``recording`` and ``offline``
write what all of them would have stored; ``telescope`` lives in real time.
"""
