# SPDX-License-Identifier: BSD-3-Clause
"""Simulated detectors whose every injected number is known: pixels, day folders, faults.

The order of the effects is that of the light and the charge: scene, pixel response, dark current,
brighter-fatter accumulation, cosmic rays, full well, persistence, injection, pumping, transfer,
then the electronics: cross-talk, linearity, gain, noise, offset, converter.
"""
