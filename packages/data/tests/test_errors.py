import pickle

from cxr_data.errors import BadInput, unknown_name


def test_it_says_what_where_and_what_to_do() -> None:
    error = BadInput("a folder", "a file", where="x/y", do="name its parent")
    assert str(error) == "expected a folder, found a file\n  where: x/y\n  do:    name its parent"


def test_it_survives_the_way_out_of_a_worker_process() -> None:
    error = BadInput("a folder", "a file", where="x/y", do="name its parent")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.where, copy.do) == (str(error), "x/y", "name its parent")


def test_a_wrong_name_gets_the_nearest_or_all() -> None:
    assert "did you mean resnet18?" in str(unknown_name("network", "resnet81", ["resnet18", "vgg"]))
    assert "choose one of a, b" in str(unknown_name("network", "zzz", ["b", "a"]))
