"""Shapes of annotated functions are checked while the tests run."""

from jaxtyping import install_import_hook

install_import_hook(["mrbridge.networks", "mrbridge.losses"], "beartype.beartype")
