"""Which of several commands goes on: the newest, on disks and in buckets, whatever became of the ones before."""

import pathlib

import pytest

from jax_sis import results

KINDS = ("disk", "memory", "s3", "gcs")


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> results.Folder:
  match request.param:
    case "disk":
      return results.open_folder(tmp_path)
    case "memory":
      return results.open_folder(f"memory://{tmp_path.name}")
    case _:
      return results.open_folder(f"{request.getfixturevalue(f'{request.param}_bucket')}/{tmp_path.name}")


def test_the_newest_goes_on_and_leaves_nothing(folder: results.Folder):
  with results.claim(folder, "find") as check_older:
    check_older()
    with results.claim(folder, "find") as check_newer:
      check_newer()
      with pytest.raises(ValueError, match=r"^only the newest 'jax-sis find' goes on in '.*', and another was begun "):
        check_older()
    # That one is done, and so is the work.
    with pytest.raises(ValueError, match=r"; that one does what is left\. To go on by this one instead, end the othe"):
      check_older()
  assert folder.list() == []


def test_one_that_fails_lets_the_one_before_go_on(folder: results.Folder):
  with results.claim(folder, "find") as check_older:
    with pytest.raises(KeyError), results.claim(folder, "find"):
      raise KeyError
    check_older()
  assert folder.list() == []


def test_one_that_was_killed_keeps_nobody_waiting(folder: results.Folder):
  folder.write(".claim-find", b"of a killed one")
  with results.claim(folder, "find") as check:
    check()
  assert folder.list() == []


def test_an_older_one_that_ends_leaves_the_newest_alone(folder: results.Folder):
  older, newer = results.claim(folder, "find"), results.claim(folder, "find")
  older.__enter__()
  check_newer = newer.__enter__()
  older.__exit__(None, None, None)
  check_newer()
  newer.__exit__(None, None, None)


def test_other_commands_go_on(folder: results.Folder):
  with results.claim(folder, "find") as check_one, results.claim(folder, "controls") as check_other:
    check_one()
    check_other()
