# Characters and strings: UTF-8, Han, and the escapes of JSON.

cdef struct Text:
    Bytes start  # behind the opening quote; NULL: there is no such string
    Bytes end
    bint escaped


cdef uint32_t[16] HAN  # first and last of each range
cdef int HAN_NUMBERS = 0
for _first, _last in HAN_RANGES:
    if not (0x3000 <= _first <= _last <= 0x9FFF or 0xF000 <= _first <= _last <= 0x10FFFF):
        raise ValueError(f"Han from U+{_first:04X} to U+{_last:04X}: `looks_plain` wants first bytes E3 to E9, EF or F0")
    HAN[HAN_NUMBERS], HAN[HAN_NUMBERS + 1] = _first, _last
    HAN_NUMBERS += 2


cdef bint looks_plain(Bytes line, Py_ssize_t size) noexcept nogil:
    """Whether a line is UTF-8 without control characters and without any byte that could begin a Han character.

    One pass that compilers make vector code of: byte i continues a character just when byte i-1 announces one (C2 and
    up) or byte i-2 does (E1 and up). The line's end, "}", announces nothing. Rare first bytes are not looked behind:
    C0, C1 (wrong), E0 (perhaps overlong), E3 to E9 and EF (perhaps Han), F0 and up; nor is ED A0 (half a surrogate pair).
    """
    cdef uint8_t byte, before, bad = 0
    cdef Py_ssize_t i
    if size < 3 or (line[0] | line[1]) >= 0x80:
        return False
    bad = (line[0] < 0x20) | (line[1] < 0x20) | (line[size - 1] != c"}")
    for i in range(2, size):
        byte = line[i]
        before = line[i - 1]
        bad |= ((byte & 0xC0) == 0x80) ^ ((before >= 0xC0) | (line[i - 2] >= 0xE0))
        bad |= (byte < 0x20) | (byte >= 0xEF) | (<uint8_t>(byte - 0xE3) < 7) | (byte == 0xE0) | ((byte & 0xFE) == 0xC0)
        bad |= (before == 0xED) & (byte >= 0xA0)
    return not bad


cdef bint is_han(uint32_t code) noexcept nogil:
    cdef int i
    for i in range(0, HAN_NUMBERS, 2):
        if HAN[i] <= code <= HAN[i + 1]:
            return True
    return False


cdef bint is_sound(Bytes p, Bytes end, bint *han) noexcept nogil:
    """Whether [p, end) is UTF-8 without control characters, character by character; `han` is set when one is Han."""
    cdef uint32_t code
    cdef uint8_t first
    cdef int more
    while p < end:
        first = p[0]
        p += 1
        if first < 0x80:
            if first < 0x20:
                return False
            continue
        if first < 0xC2 or first > 0xF4:
            return False
        more = 1 if first < 0xE0 else 2 if first < 0xF0 else 3
        if end - p < more:
            return False
        code = first & (0x3F >> more)
        for _ in range(more):
            if p[0] & 0xC0 != 0x80:
                return False
            code = code << 6 | p[0] & 0x3F
            p += 1
        if more == 2 and (code < 0x800 or 0xD800 <= code < 0xE000) or more == 3 and not 0x10000 <= code <= 0x10FFFF:
            return False
        if is_han(code):
            han[0] = True
    return True


cdef Py_ssize_t characters(Bytes p, Py_ssize_t size) noexcept nogil:
    """How many characters of sound UTF-8: bytes that do not continue one. Sums of a byte make vector code."""
    cdef Py_ssize_t i, count = 0
    cdef uint8_t some
    while size >= 128:
        some = 0
        for i in range(128):
            some += (p[i] & 0xC0) != 0x80
        count += some
        p += 128
        size -= 128
    for i in range(size):
        count += (p[i] & 0xC0) != 0x80
    return count


cdef bint is_visible(Bytes p, Py_ssize_t size) noexcept nogil:
    """Whether some character is surely no space: visible ASCII, or one from U+4000 up, by its first byte."""
    cdef Py_ssize_t i
    for i in range(size):
        if 0x21 <= p[i] <= 0x7E or p[i] >= 0xE4:
            return True
    return False


cdef uint8_t *put_character(uint32_t code, uint8_t *out) noexcept nogil:
    """Write a character as UTF-8."""
    if code < 0x80:
        out[0] = code
        return out + 1
    if code < 0x800:
        out[0] = 0xC0 | code >> 6
        out[1] = 0x80 | code & 0x3F
        return out + 2
    if code < 0x10000:
        out[0] = 0xE0 | code >> 12
        out[1] = 0x80 | code >> 6 & 0x3F
        out[2] = 0x80 | code & 0x3F
        return out + 3
    out[0] = 0xF0 | code >> 18
    out[1] = 0x80 | code >> 12 & 0x3F
    out[2] = 0x80 | code >> 6 & 0x3F
    out[3] = 0x80 | code & 0x3F
    return out + 4


cdef uint8_t *put_written(uint32_t code, uint8_t *out) noexcept nogil:
    """Write a character as orjson writes it in a string: \\b, \\t, \\n, \\f, \\r, \\", \\\\, \\u001f, or as it is."""
    cdef const char *short = "btn?fr"  # from U+0008
    if code >= 0x20 and code != c'"' and code != c"\\":
        return put_character(code, out)
    out[0] = c"\\"
    if code >= 0x20 or 8 <= code <= 13 and code != 11:
        out[1] = code if code >= 0x20 else short[code - 8]
        return out + 2
    memcpy(out + 1, <const char *>"u00", 3)
    out[4] = (<const char *>"01")[code >> 4]
    out[5] = (<const char *>"0123456789abcdef")[code & 15]
    return out + 6


cdef int four_digits(Bytes p, Bytes end) noexcept nogil:
    """The number that four hexadecimal digits at `p` write; -1 when they do not stand there."""
    cdef int value = 0, i
    cdef uint8_t byte
    if end - p < 4:
        return -1
    for i in range(4):
        byte = p[i]
        if c"0" <= byte <= c"9":
            value = value << 4 | byte - c"0"
        elif c"a" <= byte | 0x20 <= c"f":
            value = value << 4 | (byte | 0x20) - c"a" + 10
        else:
            return -1
    return value


cdef uint8_t *unescaped(Text *text, uint8_t *out, bint written, bint *han) noexcept nogil:
    """Write a string's UTF-8 to `out`, where as many bytes as it has must be free; `written`: as orjson writes it.

    Gives the end of what was written; NULL for a wrong escape, half a surrogate pair or NUL. `han` is set when an
    escape writes a Han character.
    """
    cdef Bytes p = text.start, end = text.end, run
    cdef int code, low
    cdef uint8_t letter
    while text.escaped:
        if p < end and p[0] != c"\\":
            run = <Bytes>memchr(p, c"\\", end - p)
            if run is NULL:
                break
            memcpy(out, p, run - p)
            out += run - p
            p = run
        if p == end:
            break
        letter = p[1]  # within the string: its closing quote does not stand behind a lone backslash
        p += 2
        if letter == c"u":
            code = four_digits(p, end)
            p += 4
            if 0xD800 <= code < 0xDC00:
                if end - p < 6 or p[0] != c"\\" or p[1] != c"u":
                    return NULL
                low = four_digits(p + 2, end)
                if not 0xDC00 <= low < 0xE000:
                    return NULL
                code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
                p += 6
            elif code <= 0 or 0xDC00 <= code < 0xE000:
                return NULL
            if is_han(code):
                han[0] = True
            out = put_written(code, out) if written else put_character(code, out)
            continue
        code = (c"\b" if letter == c"b" else c"\t" if letter == c"t" else c"\n" if letter == c"n" else
                c"\f" if letter == c"f" else c"\r" if letter == c"r" else letter)
        if code == letter and letter != c'"' and letter != c"\\" and letter != c"/":
            return NULL
        out = put_written(code, out) if written else put_character(code, out)
    memcpy(out, p, end - p)
    return out + (end - p)
