# SPDX-License-Identifier: GPL-3.0-or-later
"""Real runs of the collection, and what may happen to them: each file is a class of faults, ``run`` drives them all."""
