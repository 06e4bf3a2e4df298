"""The wheel also carries the notebooks' scripts, which in the checkout stand beside the package."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithNotebooks(build_py):
    """Copies notebooks/source to minitxl/course, where `minitxl.course.notebooks` looks for it."""

    def run(self):
        super().run()
        if self.editable_mode:  # then the checkout's own are found
            return
        target = Path(self.build_lib) / "minitxl" / "course" / "source"
        self.mkpath(str(target))
        for script in sorted(Path("notebooks/source").glob("*.py")):
            self.copy_file(str(script), str(target / script.name))


setup(cmdclass={"build_py": WithNotebooks})
