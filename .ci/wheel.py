"""See that a wheel holds every tracked file of minitxl/, the notebooks' scripts, and no other."""

import subprocess
import sys
import zipfile
from pathlib import Path

wheel = Path(sys.argv[1])
listed = subprocess.run(
    ["git", "ls-files", "minitxl", "notebooks/source"], capture_output=True, text=True, check=True
)
want = {
    path.replace("notebooks/source/", "minitxl/course/source/")
    for path in listed.stdout.splitlines()
}
with zipfile.ZipFile(wheel) as file:
    have = {name for name in file.namelist() if ".dist-info/" not in name}
if want != have:
    sys.exit(f"{wheel.name} lacks {sorted(want - have)}, and has too much: {sorted(have - want)}")
print(f"{wheel.name}: {len(have)} files, {wheel.stat().st_size / 1e6:.1f} MB")
