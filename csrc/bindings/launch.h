// Launches: calls of kernels that own their arguments, to be made again and again on other memory.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "arguments.h"

namespace asose {

// The number of an argument, that of its element if it is a list, else -1, the number of a base,
// and how many bytes after it the address lies that belongs there.
using Place = std::array<int64_t, 4>;

// Writes an address into an argument, or into an element of one that is a list.
template <class Argument>
void put(uintptr_t value, Argument& argument, int64_t element) {
  if constexpr (std::is_same_v<Argument, uintptr_t> || std::is_same_v<Argument, int64_t>) {
    expect_between("the element of a number", element, -1, -1);
    argument = static_cast<Argument>(value);
  } else if constexpr (std::is_same_v<Argument, Addresses> || std::is_same_v<Argument, Integers>) {
    expect_between("the element of a list", element, 0, static_cast<int64_t>(argument.size()) - 1);
    argument[element] = static_cast<typename Argument::value_type>(value);
  } else {
    throw std::invalid_argument("an argument that is a place must be an address or a list of them");
  }
}

class Launch {
 public:
  template <class Kernel, class... Arguments>
  Launch(Kernel kernel, std::tuple<Arguments...> arguments, std::vector<Place> places) {
    for (const auto& [argument, element, base, offset] : places) {
      expect_between("an argument", argument, 0, int64_t{sizeof...(Arguments)} - 1);
      expect_at_least("a base", base, 0);
      last_base_ = std::max(last_base_, base);
      put_at(0, arguments, argument, element, std::index_sequence_for<Arguments...>());
    }
    run_ = [kernel, arguments = std::move(arguments),
            places = std::move(places)](const Addresses& bases) {
      auto there = arguments;  // several threads may be here
      for (const auto& [argument, element, base, offset] : places)
        put_at(bases[base] + static_cast<uintptr_t>(offset), there, argument, element,
               std::index_sequence_for<Arguments...>());
      std::apply(kernel, there);
    };
  }

  // The last one that a place needs, or -1.
  int64_t last_base() const { return last_base_; }

  void run(const Addresses& bases) const { run_(bases); }

 private:
  template <class Arguments, size_t... I>
  static void put_at(uintptr_t value, Arguments& arguments, int64_t argument, int64_t element,
                     std::index_sequence<I...>) {
    ((argument == int64_t{I} ? put(value, std::get<I>(arguments), element) : void()), ...);
  }

  int64_t last_base_ = -1;
  std::function<void(const Addresses&)> run_;
};

// Launches in a row.
class Program {
 public:
  Program(std::vector<Launch> launches, int64_t bases)
      : launches_(std::move(launches)), bases_(bases) {
    expect_at_least("bases", bases, 0);
    for (const Launch& launch : launches_)
      expect_between("the last base", launch.last_base(), -1, bases - 1);
  }

  void run(const Addresses& bases) const {
    expect_count("bases", bases.size(), bases_);
    for (const Launch& launch : launches_) launch.run(bases);
  }

 private:
  std::vector<Launch> launches_;
  int64_t bases_;
};

}  // namespace asose
