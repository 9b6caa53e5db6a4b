"""Reads what a Mach-O library says of itself. <mach-o/loader.h>, <mach-o/nlist.h> and xnu's cs_blobs.h have the layouts."""

import struct

PROCESSORS = {0x0100000C: "arm64", 0x01000007: "x86_64"}
DYLIB = 6

SYMTAB, LOAD_DYLIB, ID_DYLIB, SEGMENT, RPATH, SIGNATURE, BUILD_VERSION = 0x2, 0xC, 0xD, 0x19, 0x8000001C, 0x1D, 0x32
# Other ways to load a library.
OTHER_LOADS = {0x80000018, 0x8000001F, 0x20, 0x80000023}
# An older way to say the oldest system.
VERSION_MIN = 0x24


class File:
    def __init__(self, data):
        self.data = data
        magic, processor, _, kind, count, _, _, _ = struct.unpack_from("<8I", data)
        if magic != 0xFEEDFACF:
            raise SystemExit("no 64-bit Mach-O file")
        self.processor, self.is_dylib = PROCESSORS.get(processor, hex(processor)), kind == DYLIB
        self.name, self.oldest, self.signature, self.loads, self.rpaths, self.sections = None, None, None, [], [], []
        self.symbols = []
        at = 32
        for _ in range(count):
            command, size = struct.unpack_from("<2I", data, at)
            self.take(command, at, size)
            at += size

    def take(self, command, at, size):
        def word(index):
            return struct.unpack_from("<I", self.data, at + 4 * index)[0]

        def text():
            return self.data[at + word(2):at + size].split(b"\0")[0].decode()

        if command == ID_DYLIB:
            self.name = text()
        elif command == LOAD_DYLIB or command in OTHER_LOADS:
            self.loads.append(text())
        elif command == RPATH:
            self.rpaths.append(text())
        elif command == BUILD_VERSION:
            # Of the platform 1, macOS.
            self.oldest = "%d.%d" % (word(3) >> 16, word(3) >> 8 & 255) if word(2) == 1 else "no macOS"
        elif command == VERSION_MIN:
            self.oldest = "%d.%d" % (word(2) >> 16, word(2) >> 8 & 255)
        elif command == SIGNATURE:
            self.signature = self.data[word(2):word(2) + word(3)]
        elif command == SEGMENT:
            for index in range(word(16)):
                section, _, _, length = struct.unpack_from("<16s16s2Q", self.data, at + 72 + 80 * index)
                self.sections.append((section.rstrip(b"\0").decode(), length))
        elif command == SYMTAB:
            names = self.data[word(4):word(4) + word(5)]
            for index in range(word(3)):
                name, kind, _, _, _ = struct.unpack_from("<I2BHQ", self.data, word(2) + 16 * index)
                self.symbols.append((names[name:].split(b"\0", 1)[0].decode(), kind))

    # Of a symbol's kind: 0xE0 is for debuggers, 0x10 private, 0x0E where it is (0: nowhere), 0x01 for others.
    def exported(self):
        return {name for name, kind in self.symbols if not kind & 0xF0 and kind & 1 and kind & 0x0E}

    def needed(self):
        return {name for name, kind in self.symbols if not kind & 0xF0 and kind & 1 and not kind & 0x0E}

    def check_signature(self, sha256):
        """How many pages the ad-hoc signature has; 0 if there is none. Ends the script if a page is not as it was signed."""
        if self.signature is None:
            return 0
        # Big-endian: a list of blobs, of which one is the code directory.
        magic, _, count = struct.unpack_from(">3I", self.signature)
        if magic != 0xFADE0CC0:
            raise SystemExit("the signature is none")
        for index in range(count):
            at = struct.unpack_from(">2I", self.signature, 12 + 8 * index)[1]
            directory = self.signature[at:]
            magic, _, _, flags, hashes, _, _, pages, limit, size, kind, _, shift = struct.unpack_from(">9I4B", directory)
            if magic != 0xFADE0C02:
                continue
            if (kind, size, flags & 2) != (2, 32, 2):
                raise SystemExit("the signature is not ad hoc, or not of SHA-256")
            for page in range(pages):
                begin = page << shift
                signed = directory[hashes + 32 * page:hashes + 32 * (page + 1)]
                if sha256(self.data[begin:min(begin + (1 << shift), limit)]) != signed:
                    raise SystemExit("page %d is not as it was signed" % page)
            return pages
        return 0
