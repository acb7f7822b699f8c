// SPDX-License-Identifier: Apache-2.0
// The call stack of a thread, taken inside a signal handler: by frame pointers (all of ours is
// built with them), each checked against the thread's own stack before it is followed. Code built
// without them, as libc and BoringSSL's assembly, has any number in that register: it ends the walk
// and not the process.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace qanat::ztunnel::profile {

// Once on a thread, before it may be looked at; without it a stack is its innermost address only.
void RegisterThisThread();

// Signal-safe: `context` is the handler's third argument. Innermost first; returns how many.
size_t WalkStack(const void* context, std::span<void*> out);
// Of the caller, from its return address on.
size_t WalkOwnStack(std::span<void*> out);

// "name+0x12 (/usr/bin/qanat-ztunnel+0x4242)"; not signal-safe.
std::string Describe(void* address);

}  // namespace qanat::ztunnel::profile
