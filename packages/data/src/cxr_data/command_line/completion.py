"""Shell completion of ``cxr``: a self-contained script that lists every command and option."""

from collections.abc import Mapping, Sequence

from cxr_data.command_line.help import options
from cxr_data.command_line.umbrella import COMMANDS, COMPLETION, SHELLS, load
from cxr_data.errors import BadInput, require_known

COMMON = ("--help", "--config", "--print_config", "--slurm")
HOW = {
    "bash": "cxr completion bash > ~/.local/share/bash-completion/completions/cxr",
    "zsh": "cxr completion zsh > a folder of $fpath, as _cxr",
    "fish": "cxr completion fish > ~/.config/fish/completions/cxr.fish",
}
"""Where each shell looks for it."""

Words = Mapping[str, Sequence[str]]
"""What may follow: "" -> commands, "predict" -> its options, "data" -> its commands, "data prepare" -> theirs."""


def completion(arguments: Sequence[str]) -> str:
    """The script for one shell.

    Raises:
        BadInput: No shell, or one that is not known.
    """
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        raise BadInput(f"one of {', '.join(SHELLS)}", "none", where="cxr completion", do=f"for example: {HOW['bash']}")
    require_known("shell", arguments[0], SHELLS)
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[arguments[0]](words())


def words() -> dict[str, list[str]]:
    """What may follow which command; commands of packages that are not installed have no options."""
    completions: dict[str, list[str]] = {"": [*COMMANDS, COMPLETION], COMPLETION: list(SHELLS)}
    for name, command in COMMANDS.items():
        try:
            config = load(command.config, name)
        except BadInput:
            continue
        if ":" in command.config:
            completions[name] = _flags(config)
        else:
            completions[name] = list(config.CONFIGS)
            completions |= {f"{name} {inner}": _flags(kind) for inner, kind in config.CONFIGS.items()}
    return completions


def _flags(config: type) -> list[str]:
    return [*COMMON, *(f"--{option.name}" for option in options(config))]


def _bash(completions: Words) -> str:
    cases = "\n".join(f'    "{where}") words="{" ".join(what)}" ;;' for where, what in completions.items())
    return f"""# {HOW["bash"]}
_cxr() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} where="" word words=""
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "$word" in -*) break ;; esac
    case "$where" in "") where=$word ;; data) where="data $word" ;; esac
  done
  case "$where" in
{cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  if [[ ${{#COMPREPLY[@]}} -eq 0 || ( -z "$current" && "$words" == --* ) ]]; then
    COMPREPLY+=($(compgen -f -- "$current"))
  fi
}}
complete -o filenames -F _cxr cxr
"""


def _zsh(completions: Words) -> str:
    cases = "\n".join(f'    "{where}") words_now=({" ".join(what)}) ;;' for where, what in completions.items())
    return f"""#compdef cxr
# {HOW["zsh"]}
_cxr() {{
  local where="" word
  local -a words_now
  for word in "${{(@)words[2,CURRENT-1]}}"; do
    [[ $word == -* ]] && break
    case "$where" in "") where=$word ;; data) where="data $word" ;; esac
  done
  case "$where" in
{cases}
  esac
  compadd -- $words_now
  [[ "$where" == (|data|{COMPLETION}) ]] || _files
}}
_cxr "$@"
"""


def _fish(completions: Words) -> str:
    lines = []
    for where, what in completions.items():
        for word in what:
            said = f"-l {word[2:]}" if word.startswith("--") else f"-f -a {word}"
            lines.append(f"complete -c cxr -n '__cxr_is \"{where}\"' {said}")
    return f"""# {HOW["fish"]}
function __cxr_is
  set -l where
  for word in (commandline -opc)[2..-1]
    string match -q -- '-*' $word; and break
    switch "$where"
      case ''
        set where $word
      case data
        set where "data $word"
    end
  end
  test "$where" = $argv[1]
end
{chr(10).join(lines)}
"""
