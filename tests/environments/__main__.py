"""Makes the environments that are named, or all that this Python is for."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.environments import RECIPES, is_for_this_python, make

names = sys.argv[1:] or [*filter(is_for_this_python, RECIPES)]
with ThreadPoolExecutor(os.cpu_count()) as pool:
    for name, folder in zip(names, pool.map(make, names), strict=True):
        print(f'{name}: {folder}', flush=True)
