# SPDX-License-Identifier: GPL-3.0-or-later
"""Benchmarks: ours beside peers, on hosts of this machine."""
