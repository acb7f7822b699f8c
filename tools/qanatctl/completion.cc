// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/completion.h"

#include <fmt/format.h>

#include <algorithm>

namespace qanat::ctl {
namespace {

// What bash and zsh share: the table of commands, and the walk over the words before the cursor. It
// leaves `want`, the kind of the word at the cursor, "-" for an option or a subcommand's name.
// `%FIRST%` and `%CURRENT%` are the indexes of the first word after the program and of the
// cursor's.
constexpr char kWalk[] = R"sh(_qanatctl_walk() {
  local at='' values places place=0 word i after=''
  mesh=local want='' flags='' subs=''
  _qanatctl_about ''
  for ((i = %FIRST%; i < %CURRENT%; i++)); do
    word=${%WORDS%[i]}
    if [[ $word == '=' ]]; then continue; fi  # bash takes --name=x apart
    if [[ $word == ':' ]]; then after=colon; continue; fi
    if [[ $after == colon ]]; then after=''; continue; fi
    if [[ -n $want ]]; then
      if [[ $want == meshes ]]; then mesh=$word; fi
      want=''
    elif [[ $word == -- ]]; then
      want=command
      return
    elif [[ $word == -* ]]; then
      want=" $values "
      if [[ $want == *" $word="* ]]; then
        want=${want#*" $word="}
        want=${want%% *}
      else
        want=''
      fi
    elif [[ " $subs " == *" $word "* ]]; then
      at="${at:+$at }$word"
      _qanatctl_about "$at"
    else
      place=$((place + 1))
    fi
  done
  if [[ -n $want ]]; then return; fi
  if [[ ${%WORDS%[%CURRENT%]} == -* || -n $subs ]]; then
    want=-
    return
  fi
  for word in %PLACES%; do
    if ((place == 0)); then want=$word; fi
    place=$((place - 1))
  done
}
)sh";

constexpr char kBash[] = R"sh(
_qanatctl() {
  local cur=${COMP_WORDS[COMP_CWORD]} mesh want flags subs
  COMPREPLY=()
  _qanatctl_walk
  if [[ $cur == '=' ]]; then cur=''; fi
  case $want in
    '' | '?' | command) return ;;
    -) if [[ $cur == -* ]]; then subs=$flags; fi ;;
    files)
      compopt -o filenames 2>/dev/null
      mapfile -t COMPREPLY < <(compgen -f -- "$cur")
      return ;;
    list:*) subs=${want#list:} subs=${subs//,/ } ;;
    *) subs=$("${COMP_WORDS[0]}" words "$want" --name "$mesh" 2>/dev/null) ;;
  esac
  mapfile -t COMPREPLY < <(compgen -W "$subs" -- "$cur")
}
complete -F _qanatctl qanatctl
)sh";

constexpr char kZsh[] = R"sh(
_qanatctl() {
  local mesh want flags subs
  _qanatctl_walk
  case $want in
    '' | '?') return ;;
    command) _normal; return ;;
    files) _files; return ;;
    -) if [[ ${words[CURRENT]} == -* ]]; then subs=$flags; fi ;;
    list:*) subs=${want#list:} subs=${subs//,/ } ;;
    *) subs=$("${words[1]}" words "$want" --name "$mesh" 2>/dev/null) ;;
  esac
  compadd -- ${=subs}
}
if [[ $funcstack[1] == _qanatctl ]]; then _qanatctl; else compdef _qanatctl qanatctl; fi
)sh";

std::string Replace(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

std::string Table(const std::vector<CommandShape>& commands) {
  std::string out = "_qanatctl_about() {\n  subs='' flags='' values='' places=''\n  case $1 in\n";
  for (const CommandShape& command : commands) {
    std::vector<std::string> subs;
    std::vector<std::string> flags;
    std::vector<std::string> values;
    for (const auto& [name, help] : command.subcommands) subs.push_back(name);
    for (const CommandShape::Option& option : command.options) {
      for (const std::string& name : option.names) {
        flags.push_back(name);
        if (option.takes_value) values.push_back(name + "=" + option.value);
      }
    }
    out += fmt::format("    '{}') subs='{}' flags='{}' values='{}' places='{}' ;;\n", command.path,
                       fmt::join(subs, " "), fmt::join(flags, " "), fmt::join(values, " "),
                       fmt::join(command.arguments, " "));
  }
  return out + "  esac\n}\n";
}

std::string Walk(std::string_view first, std::string_view current, std::string_view words,
                 std::string_view places) {
  std::string text = Replace(kWalk, "%FIRST%", first);
  text = Replace(std::move(text), "%CURRENT%", current);
  text = Replace(std::move(text), "%WORDS%", words);
  return Replace(std::move(text), "%PLACES%", places);
}

std::string FishQuoted(std::string text) {
  text = Replace(std::move(text), "\\", "\\\\");
  return "'" + Replace(std::move(text), "'", "\\'") + "'";
}

// The words that fish offers in a place of this kind, as arguments of `complete`.
std::string FishWords(const WordKind& kind) {
  if (kind == "files") return " -F";
  if (kind == "?" || kind.empty()) return "";
  if (kind.starts_with("list:")) {
    return " -a " + FishQuoted(Replace(kind.substr(5), ",", " "));
  }
  return fmt::format(" -a '(__qanatctl_words {})'", kind);
}

std::string Fish(const std::vector<CommandShape>& commands) {
  // The words of the command line that are no options: "local up folder".
  std::string out = R"sh(# fish completion of qanatctl
function __qanatctl_at
  set -l words (string match -v -- '-*' (commandline -opc)[2..])
  set -l path (string split -n ' ' -- $argv[1])
  set -l depth (count $path)
  if test $depth -gt 0
    test (count $words) -ge $depth; and test "$words[1..$depth]" = "$path"; or return 1
  end
  set -l next (math $depth + 1)
  test (count $words) -lt $next; and return 0
  not contains -- $words[$next] (string split -n ' ' -- $argv[2])
end
function __qanatctl_words
  set -l words (commandline -opc)
  set -l mesh local
  set -l at (contains -i -- --name $words)
  and set mesh $words[(math $at + 1)]
  $words[1] words $argv[1] --name $mesh 2>/dev/null
end
complete -c qanatctl -f
)sh";
  for (const CommandShape& command : commands) {
    std::vector<std::string> names;
    for (const auto& [name, help] : command.subcommands) names.push_back(name);
    const std::string here = fmt::format("complete -c qanatctl -n \"__qanatctl_at '{}' '{}'\"",
                                         command.path, fmt::join(names, " "));
    for (const auto& [name, help] : command.subcommands) {
      out += fmt::format("{} -a {} -d {}\n", here, name, FishQuoted(help));
    }
    for (const CommandShape::Option& option : command.options) {
      std::string spelled;
      for (const std::string& name : option.names) {
        spelled += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
      }
      out += fmt::format("{}{}{} -d {}\n", here, spelled,
                         !option.takes_value       ? ""
                         : option.value == "files" ? " -r -F"
                                                   : " -x" + FishWords(option.value),
                         FishQuoted(option.help));
    }
    // Fish does not count arguments: every place's words are offered.
    for (const WordKind& kind : command.arguments) {
      if (const std::string words = FishWords(kind); !words.empty()) out += here + words + "\n";
    }
  }
  return out;
}

}  // namespace

std::string CompletionScript(const std::string& shell, const std::vector<CommandShape>& commands) {
  if (shell == "bash") {
    return "# bash completion of qanatctl\n" + Table(commands) +
           Walk("1", "COMP_CWORD", "COMP_WORDS", "$places") + kBash;
  }
  if (shell == "zsh") {
    return "#compdef qanatctl\n" + Table(commands) + Walk("2", "CURRENT", "words", "${=places}") +
           kZsh;
  }
  if (shell == "fish") return Fish(commands);
  return {};
}

}  // namespace qanat::ctl
