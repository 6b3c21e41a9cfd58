# SPDX-License-Identifier: BSD-3-Clause
"""The archive daemon; its intake takes frames over from the cameras and never loses one."""
