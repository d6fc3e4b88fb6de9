import io
import sys

from cxr_data.command_line.terminal import counting


def test_progress_is_one_line_when_piped_and_a_bar_on_a_terminal(capsys, monkeypatch):
    with counting("judging", 4) as advance:
        advance(4)
    assert capsys.readouterr().out == "judging\n"

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with counting("judging", 4) as advance:
        advance(3)
    written = terminal.getvalue()
    assert "3/4" in written
    assert "images/s" in written
