// SPDX-License-Identifier: Apache-2.0
// Our own checks on an HTTP/1 head (or trailer section), made on the raw bytes before llhttp sees
// them: everything on which two parsers could disagree about where a message ends is refused.
// llhttp 8 accepts a space before the colon and folded lines; both have been used for smuggling.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace qanat::http {

bool IsToken(std::string_view text);          // RFC 9110 token, at least one character
bool IsHeaderValue(std::string_view text);    // no control characters but HTAB
bool IsAuthority(std::string_view text);      // host[:port]: no userinfo, path, space
bool IsRequestTarget(std::string_view text);  // visible ASCII without '#'

// Collects lines until the empty one that ends the section.
class HeadCollector {
 public:
  enum class Section { kRequest, kResponse, kTrailers };
  enum class State { kMore, kComplete, kBad, kTooLarge };

  explicit HeadCollector(size_t max_bytes) : max_bytes_(max_bytes) {}
  void Begin(Section section);
  // Takes bytes up to and including the end of the section; the rest stays in `input`.
  State Feed(std::string_view& input);
  // After kComplete: the section with its final empty line.
  const std::string& text() const { return text_; }
  bool empty() const { return text_.empty(); }
  // After kBad: what is wrong, for the log and the 400's body.
  std::string_view why() const { return why_; }

 private:
  State EndOfLine();
  bool CanBegin(char c) const;
  State Bad(std::string_view why);
  size_t max_bytes_;
  Section section_ = Section::kRequest;
  std::string text_;
  size_t line_start_ = 0;
  size_t lines_ = 0;
  unsigned skipped_ = 0;
  std::string_view why_;
};

}  // namespace qanat::http
