// JSON and safetensors: what is written is read, what is damaged is refused with df::Error and nothing worse.
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "compare.h"
#include "golden.h"
#include "harness.h"
#include "io/state_source.h"
#include "tensors.h"

namespace df::test {
namespace {

namespace fs = std::filesystem;

// A folder that is removed at the end of the case.
struct TemporaryFolder {
  std::string path;
  TemporaryFolder() {
    std::string pattern = (fs::temp_directory_path() / "if_io_XXXXXX").string();
    CHECK(mkdtemp(pattern.data()));
    path = pattern;
  }
  ~TemporaryFolder() { fs::remove_all(path); }
  std::string file(const char* name) const { return path + "/" + name; }
};

void write_bytes(const std::string& path, const std::string& bytes) {
  fs::remove(path);  // a new file: some file systems flush to the disk when a truncated one is closed
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), std::streamsize(bytes.size()));
}

std::string read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

std::string length_prefix(uint64_t n) {
  std::string s(8, '\0');
  for (int i = 0; i < 8; i++) s[size_t(i)] = char(n >> (8 * i));
  return s;
}

// A file with this header and `data` bytes behind it.
std::string with_header(const std::string& header, size_t data) {
  return length_prefix(header.size()) + header + std::string(data, 'x');
}

const Registration json([](Suite& suite) {
  suite.add("json values", [] {
    const Json v = Json::parse(R"( {"a":[1,-2.5e3,0,-0,12345678901234567890],"b":{"c":null,"d":true,"e":false},
      "s":"\"\\\/\b\f\n\r\t\u0041\u00e9\u20AC\ud83c\udf4e é🍎"} )", "text");
    const auto& a = v.find("a")->items();
    CHECK(a.size() == 5 && a[0].is_integer() && a[0].integer() == 1 && a[1].number() == -2500 && !a[1].is_integer());
    CHECK(a[2].is_integer() && a[3].is_integer() && !a[4].is_integer() && a[4].number() == 12345678901234567890.0);
    const Json& b = *v.find("b");
    CHECK(b.find("c")->is(Json::Type::Null) && b.find("d")->boolean() && !b.find("e")->boolean());
    CHECK(v.find("s")->string() == "\"\\/\b\f\n\r\tAé€🍎 é🍎");
    CHECK(!v.find("t") && v.members().size() == 3);
    CHECK(Json::parse("9223372036854775807", "t").integer() == INT64_MAX);
    const std::string hard = "quote \" backslash \\ newline \n bell \a é";
    CHECK(Json::parse(json_quote(hard), "t").string() == hard);
    CHECK(Json::parse(std::string(64, '[') + std::string(64, ']'), "t").is(Json::Type::Array));
  });
  struct Bad {
    std::string text;
    const char* part;
  };
  for (const Bad& bad : std::vector<Bad>{{"", "byte 0: expected a value"},
                                         {" ", "byte 1: expected a value"},
                                         {"nul", "byte 0: expected a value"},
                                         {"{} {}", "byte 3: expected the end"},
                                         {"[1,]", "byte 3: expected a value"},
                                         {"[1 2]", "byte 3: expected ',' or ']'"},
                                         {"{\"a\":1,}", "byte 7: expected a member name"},
                                         {"{\"a\" 1}", "byte 5: expected ':'"},
                                         {"{\"a\":1", "byte 6: expected ',' or '}'"},
                                         {"{a:1}", "byte 1: expected a member name"},
                                         {"{\"a\":1,\"b\":{},\"a\":2}", "byte 14: this member name was used before"},
                                         {"01", "byte 1: expected the end"},
                                         {"1.", "byte 2: expected a digit"},
                                         {".5", "byte 0: expected a value"},
                                         {"-", "byte 1: expected a digit"},
                                         {"1e+", "byte 3: expected a digit"},
                                         {"1e999", "byte 0: this number is out of range"},
                                         {"+1", "byte 0: expected a value"},
                                         {"NaN", "byte 0: expected a value"},
                                         {"'a'", "byte 0: expected a value"},
                                         {"\"a", "byte 2: the text ends inside a string"},
                                         {"\"\\x\"", "byte 2: unknown escape"},
                                         {"\"\\u12g4\"", "byte 5: expected four hexadecimal digits"},
                                         {"\"\\ud800\"", "half of a surrogate pair"},
                                         {"\"\\udc00\\ud800\"", "half of a surrogate pair"},
                                         {"\"a\nb\"", "byte 2: control character"},
                                         {"\"\xc0\xaf\"", "byte 1: invalid UTF-8"},
                                         {"\"\xed\xa0\x80\"", "byte 1: invalid UTF-8"},
                                         {"\"\xf4\x90\x80\x80\"", "byte 1: invalid UTF-8"},
                                         {"\"\xe2\x82\"", "byte 1: invalid UTF-8"},
                                         {std::string(66, '['), "more than 64 nested levels"},
                                         {std::string(1 << 20, '['), "more than 64 nested levels"}})
    suite.add("json refuses " + json_quote(bad.text.substr(0, 40)),
              [bad] { expect_error(ErrorCode::FileFormat, bad.part, [&] { Json::parse(bad.text, "text"); }); });
});

const Registration safetensors([](Suite& suite) {
  // The golden files were written by the Python library; `unet_stage1_io` mixes dtypes, the model has metadata.
  for (const char* name : {"unet_stage1_io", "t5_tiny_io", "tiny-if-I/text_encoder/model", "resize/pillow"})
    suite.add(std::string("safetensors writes the bytes of the Python library: ") + name, [name] {
      const TemporaryFolder folder;
      const auto original = golden(name);
      std::vector<NamedTensor> tensors;
      for (const std::string& n : original->names()) tensors.insert(tensors.begin(), {n, original->tensor(n)});
      write_safetensors(folder.file("copy.safetensors"), tensors, original->metadata());
      CHECK(read_bytes(folder.file("copy.safetensors")) == read_bytes(original->path()));
    });

  suite.add("safetensors round trip", [] {
    const TemporaryFolder folder;
    const std::string path = folder.file("a.safetensors");
    Random random("safetensors round trip");
    std::vector<NamedTensor> tensors;
    for (const DType t : {DType::U8, DType::F16, DType::I32, DType::BF16, DType::I64, DType::F32})
      for (const Shape& shape : {Shape{}, Shape{0}, Shape{3, 0, 2}, Shape{5}, Shape{2, 3, 1, 2, 3}, Shape{1000, 7}}) {
        Tensor x = Tensor::empty(shape, t, kCpu);
        for (size_t i = 0; i < x.bytes(); i++) static_cast<uint8_t*>(x.raw())[i] = uint8_t(random.bits());
        tensors.push_back({format("%s \"%s\" é\n", dtype_name(t), shape.str().c_str()), x});
      }
    const Metadata metadata{{"format", "pt"}, {"key \"\\\n", "value é\t"}, {"", ""}};
    write_safetensors(path, tensors, metadata);
    std::weak_ptr<const SafetensorsFile> weak;
    Tensor kept;
    {
      const auto file = SafetensorsFile::open(path);
      weak = file;
      CHECK(file->metadata() == metadata && file->names().size() == tensors.size() && !file->contains("nothing"));
      for (int pass = 0; pass < 2; pass++)  // the second pass reads released pages again
        for (const NamedTensor& t : tensors) {
          CHECK(file->describe(t.name).shape == t.tensor.shape() && file->describe(t.name).dtype == t.tensor.dtype());
          CHECK(different_bits(file->tensor(t.name), t.tensor).empty());
          file->release(t.name);
        }
      expect_error(ErrorCode::NotFound, "no tensor \"nothing\"", [&] { file->tensor("nothing"); });
      kept = file->tensor(tensors.back().name);
    }
    CHECK(!weak.expired());  // a view keeps the file mapped
    CHECK(different_bits(kept, tensors.back().tensor).empty());
    kept = Tensor();
    CHECK(weak.expired());
    CHECK(std::distance(fs::directory_iterator(folder.path), fs::directory_iterator()) == 1);
    write_safetensors(path, {});
    CHECK(SafetensorsFile::open(path)->names().empty());
  });

  suite.add("safetensors reads tensors that are not aligned", [] {
    const TemporaryFolder folder;
    const std::string header = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}} )";
    CHECK(header.size() % 4 != 0);
    std::string bytes = with_header(header, 8);
    const float values[] = {1.5f, -3};
    std::memcpy(bytes.data() + bytes.size() - 8, values, 8);
    write_bytes(folder.file("a"), bytes);
    const Tensor t = SafetensorsFile::open(folder.file("a"))->tensor("a");
    CHECK(reinterpret_cast<uintptr_t>(t.raw()) % 4 == 0 && t.data<float>()[0] == 1.5f && t.data<float>()[1] == -3);
  });

  suite.add("safetensors lists unsupported tensors and refuses to read them", [] {
    const TemporaryFolder folder;
    const char* header = R"({"d":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},
      "s":{"dtype":"I16","shape":[2],"data_offsets":[8,12]},
      "r":{"dtype":"U8","shape":[1,1,1,1,1,1],"data_offsets":[12,13]}})";
    write_bytes(folder.file("a"), with_header(header, 13));
    const auto file = SafetensorsFile::open(folder.file("a"));
    CHECK(file->names().size() == 3 && file->entries()[0].dtype == "F64");
    expect_error(ErrorCode::Unsupported, "tensor \"d\" is F64", [&] { file->tensor("d"); });
    expect_error(ErrorCode::Unsupported, "tensor \"s\" is I16", [&] { file->describe("s"); });
    expect_error(ErrorCode::Unsupported, "at most 5 dimensions", [&] { file->tensor("r"); });
  });

  struct Bad {
    const char* name;
    std::string bytes;
    const char* part;
  };
  const auto entry = [](const char* fields) { return with_header(std::string("{\"t\":{") + fields + "}}", 8); };
  const auto pair = [](int begin, int end, size_t data) {
    return with_header(format(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
      "b":{"dtype":"F32","shape":[1],"data_offsets":[%d,%d]}})", begin, end), data);
  };
  const std::vector<Bad> all{
      {"an empty file", "", "the file is empty"},
      {"seven bytes", "1234567", "only 7 bytes"},
      {"a header that is cut off", length_prefix(100) + "{}", "is longer than the file"},
      {"a huge header length", length_prefix(uint64_t(1) << 62) + "{}", "above 100 MB"},
      {"a header of text", with_header("hello", 0), "header: not valid JSON at byte 0"},
      {"an empty header", with_header("", 0), "header: not valid JSON at byte 0"},
      {"a header list", with_header("[]", 0), "the header must be an object, got an array"},
      {"a repeated name", with_header(R"({"a":1,"a":1})", 0), "was used before"},
      {"a tensor that is a number", with_header(R"({"t":1})", 0), "tensor \"t\": expected an object, got a number"},
      {"metadata that is a list", with_header(R"({"__metadata__":[]})", 0), "\"__metadata__\" must be an object"},
      {"metadata with a number", with_header(R"({"__metadata__":{"k":1}})", 0), "\"k\" must be a string, got a number"},
      {"no dtype", entry(R"("shape":[2],"data_offsets":[0,8])"), "\"dtype\" must be a string"},
      {"an unknown dtype", entry(R"("dtype":"Q4","shape":[2],"data_offsets":[0,8])"), "unknown dtype \"Q4\""},
      {"no shape", entry(R"("dtype":"F32","data_offsets":[0,8])"), "\"shape\" must be an array"},
      {"a negative dimension", entry(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"), "\"shape\" must hold"},
      {"a broken dimension", entry(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"), "\"shape\" must hold"},
      {"a shape that overflows", entry(R"("dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0])"),
       "more bytes than 64 bits can count"},
      {"one offset", entry(R"("dtype":"F32","shape":[2],"data_offsets":[0])"), "array of two numbers"},
      {"a negative offset", entry(R"("dtype":"F32","shape":[2],"data_offsets":[-8,0])"), "\"data_offsets\" must hold"},
      {"reversed offsets", entry(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"), "outside of the 8 bytes"},
      {"offsets beyond the end", entry(R"("dtype":"F32","shape":[4],"data_offsets":[0,16])"), "damaged or cut off"},
      {"offsets of another size", entry(R"("dtype":"F32","shape":[1],"data_offsets":[0,8])"), "the offsets span 8"},
      {"overlapping tensors", pair(0, 4, 8), "they overlap"},
      {"a hole", pair(8, 12, 12), "there is a hole"},
      {"bytes behind the tensors", pair(4, 8, 9), "9 bytes of data, the tensors have 8"},
      {"a file that is cut off", pair(4, 8, 7), "tensor \"b\""}};
  for (const Bad& bad : all)
    suite.add(std::string("safetensors refuses ") + bad.name, [bad] {
      const TemporaryFolder folder;
      write_bytes(folder.file("bad.safetensors"), bad.bytes);
      const auto open = [&] { SafetensorsFile::open(folder.file("bad.safetensors")); };
      expect_error(ErrorCode::FileFormat, bad.part, open);
      expect_error(ErrorCode::FileFormat, "bad.safetensors", open);
    });

  suite.add("safetensors names missing files and folders", [] {
    const TemporaryFolder folder;
    const auto refused = [](ErrorCode code, const char* part, const std::string& path) {
      expect_error(code, part, [&] { SafetensorsFile::open(path); });
    };
    refused(ErrorCode::NotFound, "none.safetensors: no such file", folder.file("none.safetensors"));
    refused(ErrorCode::NotFound, "no such file", folder.file("none/a.safetensors"));
    refused(ErrorCode::FileFormat, "got a folder", folder.path);
    refused(ErrorCode::FileFormat, "got a device", "/dev/null");
  });

  suite.add("safetensors writer leaves nothing behind when it fails", [] {
    const TemporaryFolder folder;
    const std::string path = folder.file("a.safetensors");
    const Tensor big = Tensor::zeros({1 << 20}, DType::F32, kCpu), small = Tensor::zeros({4}, DType::F32, kCpu);
    write_safetensors(path, {{"old", small}});
    const auto only_old = [&] {
      CHECK(std::distance(fs::directory_iterator(folder.path), fs::directory_iterator()) == 1);
      CHECK(SafetensorsFile::open(path)->contains("old"));
    };
    const auto refused = [](ErrorCode code, const char* part, const std::string& to,
                            const std::vector<NamedTensor>& tensors) {
      expect_error(code, part, [&] { write_safetensors(to, tensors); });
    };
    refused(ErrorCode::Io, "No such file", folder.file("none/a"), {{"t", small}});
    refused(ErrorCode::InvalidArgument, "two tensors are called \"t\"", path, {{"t", small}, {"t", small}});
    refused(ErrorCode::InvalidArgument, "__metadata__", path, {{"__metadata__", small}});
    {
      SafetensorsWriter writer(path, {{"t", {4}, DType::F32}, {"u", {4}, DType::F32}});
      expect_error(ErrorCode::InvalidArgument, "must be f32 (4,), got f32 (1048576,)", [&] { writer.write("t", big); });
      expect_error(ErrorCode::InvalidArgument, "\"v\" was not declared", [&] { writer.write("v", small); });
      writer.write("u", small);
      expect_error(ErrorCode::InvalidArgument, "\"t\" was not written", [&] { writer.commit(); });
    }
    only_old();
    // the disk is full, as far as this process can tell
    rlimit limit;
    getrlimit(RLIMIT_FSIZE, &limit);
    const rlimit tight{1 << 20, limit.rlim_max};
    const auto previous = std::signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &tight);
    try {
      write_safetensors(path, {{"t", big}});
      CHECK(!"written beyond the limit");
    } catch (const Error& e) {
      setrlimit(RLIMIT_FSIZE, &limit);
      std::signal(SIGXFSZ, previous);
      CHECK(e.code == ErrorCode::Io && std::string(e.what()).find("cannot write: File too large") != std::string::npos);
    }
    only_old();
  });

  suite.add("safetensors shards with one name twice", [] {
    const TemporaryFolder folder;
    const Tensor t = Tensor::zeros({4}, DType::F32, kCpu);
    write_safetensors(folder.file("1"), {{"a", t}, {"b", t}});
    write_safetensors(folder.file("2"), {{"c", t}});
    SafetensorsSource source({folder.file("1"), folder.file("2")});
    CHECK(source.names().size() == 3 && source.describe("c").shape == t.shape());
    expect_error(ErrorCode::NotFound, "no tensor \"d\" in 2 file(s)", [&] { source.read("d"); });
    write_safetensors(folder.file("2"), {{"a", t}});
    expect_error(ErrorCode::FileFormat, "tensor \"a\" is in two files",
                 [&] { SafetensorsSource both({folder.file("1"), folder.file("2")}); });
  });

  // Damaged headers: anything may be refused, but only by df::Error, and what is accepted can be read.
  suite.add("safetensors survives damaged files", [] {
    const TemporaryFolder folder;
    const std::string path = folder.file("fuzz.safetensors");
    write_safetensors(path,
                      {{"a", Tensor::zeros({2, 3}, DType::F32, kCpu)},
                       {"b", Tensor::zeros({5}, DType::BF16, kCpu)},
                       {"c.é", Tensor::zeros({0, 7}, DType::I64, kCpu)},
                       {"d", Tensor::zeros({}, DType::U8, kCpu)}},
                      {{"format", "pt"}});
    const std::string good = read_bytes(path);
    Random random("safetensors survives damaged files");
    const auto below = [&](size_t n) { return size_t(random.bits() % n); };
    const std::string snippets[] = {"0",   "9",   "-1",   "18446744073709551616", "9223372036854775807", "[",    "]",
                                    "{",   "}",   "\"",   ",",                    ":",                   "F32",  "BF16",
                                    "BOOL", "\\u0000", "\xff", "1e5", "null", "[0,0]", "\"shape\":[]"};
    int accepted = 0, refused = 0;
    for (int i = 0; i < 20000; i++) {
      std::string bytes = good;
      for (size_t edits = 1 + below(3); edits > 0; edits--) {
        const size_t at = below(bytes.size() + 1), span = std::min(bytes.size() - at, below(6));
        switch (below(5)) {
          case 0: if (at < bytes.size()) bytes[at] = char(bytes[at] ^ (1 << below(8))); break;
          case 1: bytes.erase(at, span); break;
          case 2: bytes.insert(at, snippets[below(std::size(snippets))]); break;
          case 3: bytes.replace(at, span, snippets[below(std::size(snippets))]); break;
          case 4: bytes.resize(at); break;
        }
        if (bytes.size() >= 8 && below(2)) {  // keeps the length right, so that the damage reaches the JSON
          const size_t brace = bytes.find("}}", 8);
          const size_t padded = brace == std::string::npos ? bytes.size() : (brace + 2 + 7) / 8 * 8;
          const size_t end = std::min(bytes.size(), padded);
          bytes.replace(0, 8, length_prefix(end - 8));
        }
      }
      write_bytes(path, bytes);
      try {
        const auto file = SafetensorsFile::open(path);
        unsigned sum = 0;
        for (const std::string& name : file->names()) {
          try {
            const Tensor t = file->tensor(name);
            for (size_t b = 0; b < t.bytes(); b++) sum += static_cast<const uint8_t*>(t.raw())[b];
          } catch (const Error& e) {
            CHECK(e.code == ErrorCode::Unsupported);
          }
        }
        accepted += sum != 1;  // reads every byte; the damaged data cannot be predicted
      } catch (const Error& e) {
        CHECK(e.code == ErrorCode::FileFormat);
        refused++;
      }
    }
    CHECK(accepted >= 100 && refused >= 10000);
  });
});

}  // namespace
}  // namespace df::test
