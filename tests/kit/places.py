"""The paths of the checkout and of its folders."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / 'docs'
SAMPLES = ROOT / 'sample_ini'
SITES = ROOT / 'tests' / 'sites'
