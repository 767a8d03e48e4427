"""The help of commands with settings: its groups, its sentences, its width."""

import dataclasses
import re

import pytest
import yaml

from asose_fast import config, retrain, train
from asose_fast.config import Config
from asose_fast.options import FIRST, SettingsParser
from asose_fast.presets import IMAGES
from tests.helpers import ROOT

PARSERS = {"train": (train.parser, Config), "retrain": (retrain.parser, retrain.RetrainConfig)}
OF_THE_COMMAND = {"help", "print_config", "config", "out", "overwrite"}


def names(settings):
    return {field.name for field in dataclasses.fields(settings)}


def groups(text):
    """The options of each group of a help, in order."""
    parts = re.split(r"^(\S.*):\n", text, flags=re.MULTILINE)[1:]
    return {
        title: re.findall(r"^  (?:-h, )?--(\w+)", part, re.MULTILINE)
        for title, part in zip(parts[::2], parts[1::2], strict=True)
    }


@pytest.mark.parametrize("command", PARSERS)
def test_every_setting_is_in_one_group_once(command):
    build, settings = PARSERS[command]
    found = [option for options in groups(build().format_help()).values() for option in options]
    assert sorted(found) == sorted(set(found))
    assert set(found) - names(settings) == OF_THE_COMMAND | {"track"} | (
        {"resume", "resume_if_there", "console"} if command == "train" else set()
    )
    assert names(settings) <= set(found)


def test_the_groups_are_the_parts_of_the_configuration():
    found = groups(train.parser().format_help())
    parts = [part for part in reversed(Config.__mro__) if part.__name__.endswith("Config") and part is not Config]
    titles = [part.__name__.removesuffix("Config").lower() for part in parts]
    assert list(found) == ["what most people need", "command", *titles]
    for title, part in zip(titles, parts, strict=True):
        assert found[title] == [name for name in part.__annotations__ if name not in FIRST]
    assert found["growth"][:2] == ["growth_patience", "growth_threshold"]


def test_what_most_people_need_comes_first():
    first = next(iter(groups(train.parser().format_help()).values()))
    assert set(first) == {"help", "print_config", "config", "out", "resume"} | FIRST
    assert len(first) == 13  # the eleven, --help and --print_config
    assert names(Config) > FIRST


@pytest.mark.parametrize("command", PARSERS)
@pytest.mark.parametrize("columns", [80, 100, 120])
def test_the_help_is_as_wide_as_the_terminal(command, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = PARSERS[command][0]().format_help().splitlines()
    assert columns - 12 < max(map(len, lines)) <= columns - 2


def shown(option, parser=None):
    """What the help says of an option, in one line."""
    text = (parser or train.parser()).format_help()
    found = re.search(rf"^  --{option} (.*?)(?=^  --|^\S|^$)", text, re.MULTILINE | re.DOTALL)
    return " ".join(found[1].split())


def test_defaults_and_choices_are_written_as_on_the_command_line():
    assert shown("channels").startswith("N The stem has so many channels")
    assert shown("channels").endswith("(default: 24)")
    assert shown("workers").endswith("(default: 0)")  # which is not false
    assert shown("alpha_skip").startswith("X ")
    assert shown("alpha_skip").endswith("(default: 1.0)")
    assert shown("strict").startswith("true|false ")
    assert shown("strict").endswith("(default: false)")
    assert shown("space").startswith("NAME ")
    assert shown("space").endswith("(one of chain, stages, mobile, darts, nasbench201; default: stages)")
    assert shown("growth_kinds").startswith("[A,B,...] ")
    assert shown("growth_kinds").endswith("(default: [deeper,wider,branch])")
    assert shown("limit_train").endswith("(default: null)")
    assert shown("out").endswith("default: runs/<dataset>-<time>.")
    assert shown("warmup_epochs") == ("N The warmup trains weights alone, on paths as `warmup` says. (default: 8)")


@pytest.mark.parametrize("command", PARSERS)
def test_every_setting_has_a_sentence(command):
    build, settings = PARSERS[command]
    parser = build()
    for name in names(settings):
        assert re.search(r"[.)] \((one of .*; )?default: .*\)$|default.*\.$", shown(name, parser)), name
        assert len(shown(name, parser).split()) > 6, name


def test_a_part_is_one_of_the_configuration_and_no_list_of_its_own():
    @dataclasses.dataclass(frozen=True)
    class OtherConfig(config.SpaceConfig):
        """The other part says this. And not this."""

        other: int = 3
        """The number is this."""

    parser = SettingsParser("train", None)
    parser.add_settings(OtherConfig)
    text = parser.format_help()
    assert groups(text)["other"] == ["other"]
    assert groups(text)["space"] == list(config.SpaceConfig.__annotations__)
    assert "other:\n  The other part says this.\n\n" in text
    assert parser.parse_args(["--other=4"]).other == 4


def test_the_original_takes_nothing_from_the_settings_for_images(capsys):
    with pytest.raises(SystemExit):
        train.parser().parse_args(["--config", str(ROOT / "configs" / "original.yaml"), "--print_config"])
    settings, plain = yaml.safe_load(capsys.readouterr().out), Config().to_dict()
    assert {name: settings[name] for name in IMAGES} == {name: plain[name] for name in IMAGES}
