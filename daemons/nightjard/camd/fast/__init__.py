# SPDX-License-Identifier: BSD-3-Clause
"""The fast camera mode: frames go straight into a rolling stream, thousands a second."""
