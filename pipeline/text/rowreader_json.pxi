# JSON of a row, read by a cursor: each `takes_` reads what comes next, and says whether it was that.

cdef struct Turn:
    int role
    Text content
    uint8_t *text  # the content without escapes
    Py_ssize_t size, chars


cdef struct Row:
    Bytes at  # the next byte to read
    Bytes end
    bint plain  # whether the bytes of strings are known to be sound, and no Han as they are
    bint han  # whether a content holds Han
    Text source
    int count
    Turn[MOST_TURNS] turns


cdef int following(Row *row) noexcept nogil:
    """The next byte that is no white space, not yet read; -1 at the end."""
    while row.at < row.end:
        if row.at[0] != c" " and row.at[0] != c"\t" and row.at[0] != c"\r":  # a newline ends the line
            return row.at[0]
        row.at += 1
    return -1


cdef bint takes(Row *row, int byte) noexcept nogil:
    """Read this byte, behind white space, if it comes next."""
    if following(row) != byte:
        return False
    row.at += 1
    return True


cdef bint takes_string(Row *row, Text *text) noexcept nogil:
    """Read a string; its bytes are sound, but escapes in it may yet be wrong."""
    cdef Bytes p, quote, slash
    if not takes(row, c'"'):
        return False
    text.start = p = row.at
    text.escaped = False
    quote = <Bytes>memchr(p, c'"', row.end - p)
    while quote is not NULL:
        slash = p if p[0] == c"\\" else <Bytes>memchr(p, c"\\", quote - p)
        if slash is NULL:
            text.end = quote
            row.at = quote + 1
            return row.plain or is_sound(text.start, text.end, &row.han)
        text.escaped = True
        p = slash + 2  # at most one behind the quote, which is no end then
        if p > quote:
            quote = <Bytes>memchr(p, c'"', row.end - p)
    return False


cdef bint takes_key(Row *row, Text *key) noexcept nogil:
    """Read a member's key and the colon; a key with escapes might be any."""
    return takes_string(row, key) and not key.escaped and takes(row, c":")


cdef bint equals(Text *text, const char *wanted, Py_ssize_t length) noexcept nogil:
    return text.end - text.start == length and memcmp(text.start, wanted, length) == 0


cdef bint takes_word(Row *row, const char *word, Py_ssize_t length) noexcept nogil:
    if row.end - row.at < length or memcmp(row.at, word, length) != 0:
        return False
    row.at += length
    return True


cdef int takes_digits(Row *row) noexcept nogil:
    """Read digits and give how many."""
    cdef Bytes start = row.at
    while row.at < row.end and c"0" <= row.at[0] <= c"9":
        row.at += 1
    return <int>min(row.at - start, MOST_DIGITS + 1)


cdef bint takes_number(Row *row) noexcept nogil:
    """Read a number without an exponent that is not long."""
    cdef int digits
    if row.at[0] == c"-":
        row.at += 1
    if row.at < row.end and row.at[0] == c"0":
        row.at += 1  # no digit may follow, and none is taken
    else:
        digits = takes_digits(row)
        if not 0 < digits <= MOST_DIGITS:
            return False
    if row.at < row.end and row.at[0] == c".":
        row.at += 1
        digits = takes_digits(row)
        return 0 < digits <= MOST_DIGITS
    return True


cdef bint takes_value(Row *row, uint8_t *room, int levels) noexcept nogil:
    """Read any value, strictly; `room` has a byte for each of the line's."""
    cdef Text text
    cdef int close, byte = following(row)
    if byte == c'"':
        return takes_string(row, &text) and unescaped(&text, room, False, &row.han) is not NULL
    if byte == c"t":
        return takes_word(row, "true", 4)
    if byte == c"f":
        return takes_word(row, "false", 5)
    if byte == c"n":
        return takes_word(row, "null", 4)
    if byte != c"{" and byte != c"[":
        return byte >= 0 and takes_number(row)
    row.at += 1
    close = byte + 2  # "}" or "]"
    if takes(row, close):
        return True
    while levels and (byte == c"[" or takes_key(row, &text)) and takes_value(row, room, levels - 1):
        if takes(row, close):
            return True
        if not takes(row, c","):
            return False
    return False


cdef bint takes_turn(Row *row, uint8_t *room) noexcept nogil:
    """Read one message: a role that may come here, and a content. Of two members with one name none is known to count.

    A system turn may come first; then user and assistant speak in turn.
    """
    cdef Turn *turn = &row.turns[row.count]
    cdef Text key, role
    if row.count == MOST_TURNS or not takes(row, c"{"):
        return False
    role.start = turn.content.start = NULL
    while True:
        if not takes_key(row, &key):
            return False
        if equals(&key, "content", 7):
            if turn.content.start is not NULL or not takes_string(row, &turn.content):
                return False
        elif equals(&key, "role", 4):
            if role.start is not NULL or not takes_string(row, &role) or role.escaped:
                return False
        elif not takes_value(row, room, MOST_LEVELS):
            return False
        if not takes(row, c","):
            break
    if role.start is NULL or turn.content.start is NULL or not takes(row, c"}"):
        return False
    turn.role = ASSISTANT if row.count and row.turns[row.count - 1].role == USER else USER
    if row.count == 0 and equals(&role, ROLES[SYSTEM], ROLE_LENGTHS[SYSTEM]):
        turn.role = SYSTEM
    row.count += 1
    return equals(&role, ROLES[turn.role], ROLE_LENGTHS[turn.role])


cdef bint takes_messages(Row *row, uint8_t *room) noexcept nogil:
    """Read the turns of a sound conversation, down to an answer."""
    if not takes(row, c"["):
        return False
    while takes_turn(row, room):
        if takes(row, c"]"):
            return row.turns[row.count - 1].role == ASSISTANT
        if not takes(row, c","):
            return False
    return False


cdef bint takes_row(Row *row, bytes messages, bytes source, uint8_t *room) noexcept:
    """Read a whole line; `messages` and `source` are the keys of the conversation and of its source (or null)."""
    cdef Text key
    cdef bint named = False
    row.count = 0
    row.han = False
    row.source.start = NULL
    if not takes(row, c"{"):
        return False
    while takes_key(row, &key):
        if equals(&key, PyBytes_AS_STRING(messages), PyBytes_GET_SIZE(messages)):
            if row.count or not takes_messages(row, room):
                return False
        elif not equals(&key, PyBytes_AS_STRING(source), PyBytes_GET_SIZE(source)):
            if not takes_value(row, room, MOST_LEVELS):
                return False
        elif named:
            return False
        else:
            named = True
            if following(row) == c"n":
                if not takes_word(row, "null", 4):
                    return False
            elif not takes_string(row, &row.source) or row.source.escaped:
                return False
        if not takes(row, c","):
            return row.count > 0 and takes(row, c"}") and following(row) < 0
    return False
