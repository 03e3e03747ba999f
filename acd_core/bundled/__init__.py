"""What comes with the package: a small test model, pairs, anchor instructions, sets, the demo's texts. Data only."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent

REFERENCE_MODEL_DIR = _HERE / "reference_model"
"""The test model, `model="reference"`: how it was made is in its model card."""
REFERENCE_PAIR_DIR = _HERE / "reference_pair"
SMOLLM2_PAIR_DIR = _HERE / "smollm2_pair"
ANCHOR_DIR = _HERE / "anchors"
"""Instructions and dresses that pairs and gates are tuned on."""
REFERENCE_ANCHORS = _HERE / "reference_anchors.jsonl"
"""The test model's own replies to the instructions, for a tuning run that does not make them anew."""
SETS = _HERE / "sets"
"""Evaluation sets of ours, as JSON lines."""
JUDGE_CALIBRATION = _HERE / "judge_calibration.json"
DEMO_DOCUMENTS = _HERE / "demo_documents"
DEMO_QUESTIONS = _HERE / "demo_questions.jsonl"
