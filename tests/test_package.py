import subprocess
import sys

import assocjax as aj


def test_every_public_name_imports_and_is_documented():
    for name in aj.__all__:
        assert getattr(aj, name).__doc__, name


def test_importing_the_package_does_not_import_jax():
    code = "import sys, assocjax, assocjax.cli; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
