"""A configuration that cannot be used: one sentence that names the key, exit code 2."""

import pytest

from envfarm.cli.main import run
from envfarm.core.config import load_config
from envfarm.core.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[build]\nworkrs = 3\n", "build.workrs"),
        ("[build]\nworkers = 0\n", "build.workers"),
        ("[build]\nworkers = 'many'\n", "build.workers"),
        ("[provider]\ntype = 'moon'\n", "provider"),
        ("home = 3\n", "home"),
        ("[build\n", "not valid TOML"),
        ("\xff\xfe", "not valid TOML"),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence(tmp_path, text, named):
    file = tmp_path / "envfarm.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        load_config(file, environ={})
    assert named in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in caught.value.message.strip()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read"):
        load_config(tmp_path / "nowhere.toml", environ={})


def test_an_unknown_variable_is_refused():
    with pytest.raises(ConfigError, match=r"build\.speed"):
        load_config(environ={"ENVFARM_BUILD__SPEED": "9"})


def test_flags_win_over_variables_over_the_file(tmp_path):
    file = tmp_path / "envfarm.toml"
    file.write_text("[build]\nworkers = 3\nrepeats = 5\nlimit = 7\n")
    environ = {"ENVFARM_BUILD__WORKERS": "4", "ENVFARM_BUILD__REPEATS": "6"}
    build = load_config(file, environ=environ, flags={"build.workers": 8, "build.limit": None}).build
    assert (build.workers, build.repeats, build.limit) == (8, 6, 7)


def test_the_command_line_says_one_sentence_and_exits_with_2(tmp_path, capsys):
    file = tmp_path / "envfarm.toml"
    file.write_text("[build]\nworkrs = 3\n")
    assert run(["build", "git:.", "--config", str(file)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: Configuration key 'build.workrs'")
    assert len(captured.err.strip().splitlines()) == 1
    assert captured.out == ""


def test_an_unknown_command_exits_with_2(capsys):
    assert run(["plough"]) == 2
    assert "No such command 'plough'" in capsys.readouterr().err
