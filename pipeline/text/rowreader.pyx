# cython: language_level=3, cdivision=True
"""The compiled row reader: judges sound lines without Han as `examine.judge` does, and splices output rows.

It understands JSON of the shape {"messages": [{"role": ..., "content": ...}, ...], "source": ...} with members in any
order and further members of any kind. It never says what is wrong with a line: whatever it does not know to be sound it
leaves undecided, for the plain rules (`examine.judge`, `Renderer.plain_row`) that it must equal. All strings lie
between two pointers, [start, end); nothing is read outside of the line.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.buffer cimport PyBUF_READ
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memchr, memcmp, memcpy, memset

import orjson
from xxhash import xxh3_64_intdigest, xxh3_128_digest

from pipeline.text.chinese import HAN_RANGES
from pipeline.text.examine import prompt_hashes

cdef extern from *:
    """
    #ifndef ROWREADER_SOURCE
    #define ROWREADER_SOURCE ""
    #endif
    """
    const char *ROWREADER_SOURCE

# The sha256 of the text that this was compiled from: `compiled.py` takes no other.
COMPILED_FROM = ROWREADER_SOURCE.decode()

ctypedef const uint8_t *Bytes

cdef enum:
    MOST_TURNS = 256  # a row with more is left undecided
    MOST_LEVELS = 64  # of a further member's value
    MOST_DIGITS = 15  # of a number in one; what JSON parsers make of longer ones differs
    OWN_BYTES = 256  # more than an output row has beside its turns, source and origin
    PIECE_BYTES = 1 << 18  # of output rows, given at once
    SYSTEM = 1
    USER = 2
    ASSISTANT = 3

include "rowreader_text.pxi"
include "rowreader_json.pxi"

cdef const char **ROLES = ["", "system", "user", "assistant"]
cdef Py_ssize_t *ROLE_LENGTHS = [0, 6, 4, 9]

cdef const char *ID = ',"id":"%016llx%016llx","origin":'
cdef tuple WRITTEN_ROLES = ("", *(b'{"role":"%b","content":"' % ROLES[role] for role in range(1, 4)))


cdef packed struct Record:  # records.RECORD
    uint8_t key[16]
    uint64_t prompt, opening, offset
    uint32_t length, line, chars, source
    uint16_t code, multi


cdef packed struct Line:  # render.LINE
    uint64_t offset
    uint32_t length, file, line, source, code, first_file, first_line
    uint64_t key_hi, key_lo


cdef bint is_blank(Bytes p, Bytes end) noexcept nogil:
    """Whether a line holds nothing but what bytes.isspace() takes for white space."""
    while p < end and (p[0] == 0x20 or 9 <= p[0] <= 13):
        p += 1
    return p == end


cdef bytearray roomy(bytearray room, Py_ssize_t size):
    """Make room for at least `size` bytes."""
    if PyByteArray_GET_SIZE(room) < size:
        PyByteArray_Resize(room, size)
    return room


cdef class RowReader:
    """Judges lines by `rules`. `number_of` gives the number of a source by its name in UTF-8, None where a row has none,
    and -1 for one whose rows are not kept."""

    cdef bytes messages, source
    cdef Py_ssize_t max_row_bytes, max_chars
    cdef bint refuses_han, prompts
    cdef object overlap, number_of
    cdef dict numbers
    cdef bytearray text, normal  # room for a row's turns: as they are hashed, and as prompts are compared
    cdef Row row

    def __init__(self, rules, number_of):
        self.messages, self.source = rules.columns.messages.encode(), rules.columns.source.encode()
        self.max_row_bytes = rules.max_row_bytes
        self.max_chars = 0xFFFFFFFF if rules.max_chars is None else rules.max_chars
        self.refuses_han = rules.chinese is not None
        self.prompts = rules.prompts
        self.overlap = rules.overlap
        self.number_of = number_of
        self.numbers = {}
        self.text, self.normal = bytearray(), bytearray()

    def judge(self, bytes data, Py_ssize_t start, bytearray records, uint64_t offset, uint32_t line):
        """Append a record (`records.RECORD`) for each line of `data` that is not blank; the first begins at `start`.

        `offset` and `line` say where the block lies. Gives what is left undecided, as (place in `records`, start, end)
        with the bytes in `data`, and the number of all lines and of blank ones.
        """
        cdef Bytes begin = <Bytes>PyBytes_AS_STRING(data), at = begin, stop = begin + PyBytes_GET_SIZE(data), end, first
        cdef Py_ssize_t size = PyByteArray_GET_SIZE(records), lines = data.count(b"\n") + 1, blank = 0, number
        cdef Record *record
        cdef list undecided = []
        PyByteArray_Resize(records, size + lines * sizeof(Record))
        record = <Record *>(PyByteArray_AS_STRING(records) + size)
        for number in range(lines):
            end = <Bytes>memchr(at, c"\n", stop - at)
            if end is NULL:
                end = stop
            first = at if number else begin + start
            if is_blank(first, end):
                blank += 1
            else:
                memset(record, 0, sizeof(Record))
                record.offset = offset + (at - begin)
                record.length = <uint32_t>min(end - at, 0xFFFFFFFF)
                record.line = <uint32_t>(line + number)
                if not self.decides(first, end, record):
                    undecided.append((size // <Py_ssize_t>sizeof(Record) + number - blank, first - begin, end - begin))
                record += 1
            at = end + 1
        PyByteArray_Resize(records, size + (lines - blank) * sizeof(Record))
        return undecided, lines, blank

    cdef bint decides(self, Bytes start, Bytes end, Record *record) except -1:
        """Fill in the record of a line that is sound beyond doubt."""
        cdef Row *row = &self.row
        cdef uint8_t *text
        cdef Py_ssize_t chars = 0, size, turn
        cdef int system
        if end - start > self.max_row_bytes:
            return False
        while (end - 1)[0] == c" " or (end - 1)[0] == c"\t" or (end - 1)[0] == c"\r":  # it is not blank
            end -= 1
        row.at, row.end = start, end
        row.plain = looks_plain(start, end - start)
        text = <uint8_t *>PyByteArray_AS_STRING(roomy(self.text, end - start))
        if not takes_row(row, self.messages, self.source, text):
            return False
        size = spoken(row, text)
        if size < 0 or row.han and self.refuses_han:
            return False
        for turn in range(row.count):
            chars += row.turns[turn].chars
        source = None if row.source.start is NULL else row.source.start[:row.source.end - row.source.start]
        number = self.numbers.get(source)
        if number is None:
            number = self.numbers[source] = self.number_of(source)
        if chars > self.max_chars or number < 0 or not self.clears(record):
            return False
        record.chars, record.source = <uint32_t>chars, <uint32_t>number
        system = row.turns[0].role == SYSTEM
        record.multi = row.count - system > 2
        key = xxh3_128_digest(PyMemoryView_FromMemory(<char *>text, size, PyBUF_READ))
        memcpy(record.key, PyBytes_AS_STRING(key), sizeof(record.key))
        return True

    cdef bint clears(self, Record *record) except -1:
        """Compute the hashes of the row's prompts where they are asked for; whether none is one to keep away from.

        Equals `examine.prompt_hashes`, which is asked wherever NFKC might change a character.
        """
        cdef Row *row = &self.row
        cdef uint8_t *normal
        cdef uint8_t *out
        cdef Py_ssize_t turn
        if not self.prompts and not self.overlap:
            return True
        hashes = []
        normal = out = <uint8_t *>PyByteArray_AS_STRING(roomy(self.normal, PyByteArray_GET_SIZE(self.text)))
        for turn in range(row.turns[0].role == SYSTEM, row.count):
            if row.turns[turn].role == ASSISTANT:
                hashes.append(xxh3_64_intdigest(PyMemoryView_FromMemory(<char *>normal, out - normal, PyBUF_READ)))
            if turn == row.count - 1:
                break
            out = put_role(row.turns[turn].role, out)
            out = put_normal(row.turns[turn].text, row.turns[turn].size, out)
            if out is NULL:
                hashes = prompt_hashes(turns_of(row))
                break
            out[0] = 0
            out += 1
        if self.overlap and not self.overlap.isdisjoint(hashes):
            return False
        if self.prompts:
            record.prompt, record.opening = hashes[-1], hashes[0]
        return True


cdef Py_ssize_t spoken(Row *row, uint8_t *text) noexcept nogil:
    """Write what `examine.content_key` hashes; gives its size, -1 when a turn's escapes are wrong or it may be empty.

    It is shorter than the line. A system turn, which is no part of it, is written behind the others.
    """
    cdef uint8_t *out = text
    cdef Py_ssize_t size = -1
    cdef int first = row.turns[0].role == SYSTEM, number
    cdef Turn *turn
    for number in range(first, row.count + first):
        turn = &row.turns[number if number < row.count else 0]
        if turn.role != SYSTEM:
            out = put_role(turn.role, out)
        turn.text = out
        out = unescaped(&turn.content, out, False, &row.han)
        if out is NULL:
            return -1
        turn.size = out - turn.text
        turn.chars = characters(turn.text, turn.size)
        if not is_visible(turn.text, turn.size):
            return -1
        if turn.role != SYSTEM:
            size = out - text
            out[0] = 0
            out += 1
    return size


cdef uint8_t *put_role(int role, uint8_t *out) noexcept nogil:
    memcpy(out, ROLES[role], ROLE_LENGTHS[role] + 1)  # and NUL
    return out + ROLE_LENGTHS[role] + 1


cdef uint8_t *put_normal(Bytes p, Py_ssize_t size, uint8_t *out) noexcept nogil:
    """Write `examine.normal_text` of ASCII and Hangul syllables, to which NFKC does nothing; NULL for other text."""
    cdef Bytes end = p + size
    cdef uint8_t *start = out
    cdef bint space = False
    while p < end:
        if p[0] == 0x20 or 9 <= p[0] <= 13 or 28 <= p[0] <= 31:
            space = out > start  # leading spaces are left out
            p += 1
            continue
        if space:
            out[0] = c" "
            out += 1
            space = False
        if p[0] < 0x80:
            out[0] = p[0]
            out += 1
            p += 1
        elif 0xEA <= p[0] <= 0xED and 0xEAB080 <= (p[0] << 16 | p[1] << 8 | p[2]) <= 0xED9EA3:  # 가 to 힣
            memcpy(out, p, 3)
            out += 3
            p += 3
        else:
            return NULL
    return out


cdef list turns_of(Row *row):
    """The turns as (role, content)."""
    return [
        (ROLES[row.turns[turn].role].decode(), row.turns[turn].text[:row.turns[turn].size].decode())
        for turn in range(row.count)
    ]


# ---------------------------------------------------------------------------------------------------------- writing


cdef class RowWriter:
    """Splices the output rows of sound lines, as `Renderer.plain_row` and orjson write them.

    `prompt` is the system prompt in JSON, None to keep rows as they are; `replaces` says whether it takes the place of
    a row's own. `sources` are the names of sources, `origins` those of files in JSON without the closing quote, None for a
    file whose rows are not to be spliced.
    """

    cdef bytes messages, source, prompt
    cdef bint replaces
    cdef object sources, origins
    cdef dict written  # sources in JSON by their number
    cdef bytearray room, out
    cdef Row row

    def __init__(self, columns, prompt, bint replaces, sources, origins):
        self.messages, self.source = columns.messages.encode(), columns.source.encode()
        self.prompt = b"" if prompt is None else b'{"role":"system","content":%b}' % prompt
        self.replaces = replaces
        self.sources, self.origins = sources, origins
        self.written = {}
        self.room, self.out = bytearray(), bytearray(2 * PIECE_BYTES)

    def write(self, bytes window, uint64_t offset, bytes lines, Py_ssize_t first):
        """The rows of `lines` (`render.LINE`) from `first` on, each with a newline, as long as there is no doubt.

        `window` holds the bytes of their file from `offset` on. Gives about `PIECE_BYTES` at most, and the number of the
        first line that is not written.
        """
        cdef Py_ssize_t count = PyBytes_GET_SIZE(lines) // <Py_ssize_t>sizeof(Line), size = 0, more
        cdef Line *line
        while first < count and size < PIECE_BYTES:
            line = <Line *>PyBytes_AS_STRING(lines) + first
            if line.offset < offset or line.offset - offset + line.length > <uint64_t>PyBytes_GET_SIZE(window):
                raise IndexError(f"line of {line.length} bytes at {line.offset}: the window begins at {offset}")
            more = self.splices(line, <Bytes>PyBytes_AS_STRING(window) + (line.offset - offset), size)
            if not more:
                break
            size += more
            first += 1
        return self.out[:size], first

    cdef Py_ssize_t splices(self, Line *line, Bytes start, Py_ssize_t size) except -1:
        """Write one row behind `size` bytes of `out`, unless its line is not understood, and give its size."""
        cdef Row *row = &self.row
        cdef Py_ssize_t turn = 0
        cdef uint8_t *begin
        cdef uint8_t *at = <uint8_t *>PyByteArray_AS_STRING(roomy(self.room, line.length))
        cdef bint own
        row.at, row.end = start, start + line.length
        row.plain = True  # the first pass has found it sound
        origin = self.origins[line.file]
        if origin is None or not takes_row(row, self.messages, self.source, at):
            return 0
        source = self.written.get(line.source)
        if source is None:
            source = self.written[line.source] = orjson.dumps(self.sources[line.source])
        roomy(self.out, size + line.length + len(self.prompt) + len(source) + len(origin) + OWN_BYTES)
        begin = <uint8_t *>PyByteArray_AS_STRING(self.out) + size
        at = put(begin, b'{"messages":[')
        own = row.turns[0].role == SYSTEM
        if self.prompt and (self.replaces or not own):
            at = put(put(at, self.prompt), b",")
            turn = own
        while True:
            at = put(at, WRITTEN_ROLES[row.turns[turn].role])
            at = unescaped(&row.turns[turn].content, at, True, &row.han)
            if at is NULL:
                return 0
            turn += 1
            if turn == row.count:
                break
            at = put(at, b'"},')
        at = put(put(at, b'"}],"source":'), source)
        at += snprintf(<char *>at, OWN_BYTES, ID, <unsigned long long>line.key_hi, <unsigned long long>line.key_lo)
        at = put(at, origin)
        at += snprintf(<char *>at, OWN_BYTES, ':%u"}\n', line.line)
        return at - begin


cdef uint8_t *put(uint8_t *out, bytes data) noexcept:
    memcpy(out, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    return out + PyBytes_GET_SIZE(data)
