# SPDX-License-Identifier: BSD-3-Clause
"""The stream link daemon: carries shared-memory streams to other hosts.

:mod:`~nightjard.streamlinkd.wire` is the protocol, :mod:`~nightjard.streamlinkd.sender` and
:mod:`~nightjard.streamlinkd.receiver` the ends of a link of policy ``all`` (TCP),
:mod:`~nightjard.streamlinkd.publisher` and :mod:`~nightjard.streamlinkd.subscriber` those of
policy ``latest`` (ZMQ). Each link runs in a process of its own:
:mod:`~nightjard.streamlinkd.worker`.
"""
