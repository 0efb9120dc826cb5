"""The store of a run: what it holds, which field is the subset that is meant, and its masks.

What programs need of it stands here: `results.open(folder)` reads any run.
"""

from jax_sis.results.arrays import CHECKSUMS, DONE, GROUP_FILE, ZARR_DIR, make_group
from jax_sis.results.claims import claim
from jax_sis.results.folder import Folder, StorageError, check_writable, open_folder
from jax_sis.results.query import SubsetQuery
from jax_sis.results.schema import (
  PIXEL_DIGEST,
  SMALLEST_MASK,
  TEXT,
  TEXT_BYTES,
  Field,
  digest_pixels,
  encode_text,
  mask_field,
  mask_name,
)
from jax_sis.results.spec import FORMAT, SPEC_FILE, read_spec, settle_spec
from jax_sis.results.store import Results, create_or_resume, open

__all__ = [
  "CHECKSUMS",
  "DONE",
  "FORMAT",
  "GROUP_FILE",
  "PIXEL_DIGEST",
  "SMALLEST_MASK",
  "SPEC_FILE",
  "TEXT",
  "TEXT_BYTES",
  "ZARR_DIR",
  "Field",
  "Folder",
  "Results",
  "StorageError",
  "SubsetQuery",
  "check_writable",
  "claim",
  "create_or_resume",
  "digest_pixels",
  "encode_text",
  "make_group",
  "mask_field",
  "mask_name",
  "open",
  "open_folder",
  "read_spec",
  "settle_spec",
]
