/* Sealing and opening of trains on libcrypto: `protection.Protection` once more, for speed.
 *
 * plain_protection.py is the same in Python, and says why; tests hold both to the same bytes. Nothing here
 * reads what a peer sent beyond the protection of its header (RFC 9001 5.4), and the packets of a transfer take no
 * memory each. The interpreter lock is kept: the longest train takes a tenth of a millisecond, which is less than it
 * may cost to get the lock back, and it is the lock that keeps two threads from sharing a cipher context.
 */
#include "_packet.h"

/* --- arguments */

static int as_u64(PyObject *object, uint64_t *value)
{
    *value = PyLong_AsUnsignedLongLong(object);
    return !(*value == (uint64_t)-1 && PyErr_Occurred());
}

static int as_size(PyObject *object, Py_ssize_t *value)
{
    *value = PyLong_AsSsize_t(object);
    return !(*value == -1 && PyErr_Occurred());
}

static int has_arguments(Py_ssize_t count, Py_ssize_t wanted, const char *name)
{
    if (count == wanted)
        return 1;
    PyErr_Format(PyExc_TypeError, "%s takes %zd arguments, not %zd", name, wanted, count);
    return 0;
}

/* --- sealing */

/* What the packets of a run share, and those of them that wait for header protection. */
typedef struct {
    Py_buffer out, prefix;
    Py_ssize_t pos;
    uint64_t pn;
    int pn_length;
    Py_ssize_t header_length;
    Py_ssize_t waiting;
    Py_ssize_t starts[RUN_MAX];
} Sealing;

static int begin_sealing(Protection *self, PyObject *const *args, Sealing *run)
{
    Py_ssize_t pn_length;
    run->out.obj = run->prefix.obj = NULL;
    run->waiting = 0;
    if (!sealing_context(self) || PyObject_GetBuffer(args[0], &run->out, PyBUF_WRITABLE) < 0 ||
        !as_size(args[1], &run->pos) || PyObject_GetBuffer(args[2], &run->prefix, PyBUF_SIMPLE) < 0 ||
        !as_u64(args[3], &run->pn) || !as_size(args[4], &pn_length))
        return 0;
    if (pn_length < 1 || pn_length > PN_MAX || run->prefix.len < 1 || run->pos < 0 || run->pos > run->out.len) {
        PyErr_SetString(PyExc_ValueError, "no such position, header or length of packet number");
        return 0;
    }
    run->pn_length = (int)pn_length;
    run->header_length = run->prefix.len + pn_length;
    return 1;
}

static void end_sealing(Sealing *run)
{
    PyBuffer_Release(&run->prefix);
    PyBuffer_Release(&run->out);
}

static int protect_headers(Protection *self, Sealing *run)
{
    uint8_t samples[RUN_MAX * SAMPLE_LENGTH], masks[RUN_MAX * SAMPLE_LENGTH];
    uint8_t *out = run->out.buf;
    for (Py_ssize_t i = 0; i < run->waiting; i++)
        memcpy(samples + i * SAMPLE_LENGTH, out + run->starts[i] + run->prefix.len + PN_MAX, SAMPLE_LENGTH);
    if (run->waiting && !make_masks(self, samples, run->waiting, masks))
        return crypto_error("header protection");
    for (Py_ssize_t i = 0; i < run->waiting; i++) {
        uint8_t *first = out + run->starts[i], *pn = first + run->prefix.len;
        const uint8_t *mask = masks + i * SAMPLE_LENGTH;
        *first ^= mask[0] & (*first & LONG_FORM ? 0x0F : 0x1F);
        for (int j = 0; j < run->pn_length; j++)
            pn[j] ^= mask[1 + j];
    }
    run->waiting = 0;
    return 1;
}

static int seal_next(Protection *self, Sealing *run, const uint8_t *head, Py_ssize_t head_length, const uint8_t *data,
                     Py_ssize_t data_length)
{
    Py_ssize_t payload = head_length + data_length;
    /* RFC 9001 5.4.2: there must be a sample */
    if (run->pn_length + payload < PN_MAX ||
        run->out.len - run->pos < run->header_length + payload + TAG_LENGTH || payload > INT32_MAX / 2) {
        PyErr_SetString(PyExc_ValueError, "a packet without a sample, or no room for it");
        return 0;
    }
    uint8_t *start = (uint8_t *)run->out.buf + run->pos;
    memcpy(start, run->prefix.buf, (size_t)run->prefix.len);
    write_pn(start + run->prefix.len, run->pn, run->pn_length);
    if (!seal_packet(self, run->pn, start, run->header_length, head, head_length, data, data_length,
                     start + run->header_length))
        return crypto_error("sealing");
    run->starts[run->waiting++] = run->pos;
    run->pos += run->header_length + payload + TAG_LENGTH;
    run->pn++;
    return run->waiting < RUN_MAX || protect_headers(self, run);
}

/* seal_run(out, pos, prefix, first_pn, pn_length, payloads) */
static PyObject *seal_run(Protection *self, PyObject *const *args, Py_ssize_t count)
{
    Sealing run;
    PyObject *payloads = NULL;
    if (!has_arguments(count, 6, "seal_run"))
        return NULL;
    /* A tuple of our own: taking a buffer may run code that changes the caller's list. */
    int good = begin_sealing(self, args, &run) && (payloads = PySequence_Tuple(args[5])) != NULL;
    for (Py_ssize_t i = 0; good && i < PyTuple_GET_SIZE(payloads); i++) {
        Py_buffer payload;
        good = PyObject_GetBuffer(PyTuple_GET_ITEM(payloads, i), &payload, PyBUF_SIMPLE) == 0;
        if (good) {
            good = seal_next(self, &run, NULL, 0, payload.buf, payload.len);
            PyBuffer_Release(&payload);
        }
    }
    good = good && protect_headers(self, &run);
    Py_XDECREF(payloads);
    end_sealing(&run);
    return good ? PyLong_FromSsize_t(run.pos) : NULL;
}

/* seal_stream_run(out, pos, prefix, first_pn, pn_length, head, offset, data, step) */
static PyObject *seal_stream_run(Protection *self, PyObject *const *args, Py_ssize_t count)
{
    Sealing run;
    Py_buffer head = {.obj = NULL}, data = {.obj = NULL};
    uint64_t offset;
    Py_ssize_t step;
    uint8_t whole[HEAD_MAX];
    if (!has_arguments(count, 9, "seal_stream_run"))
        return NULL;
    int good = begin_sealing(self, args, &run) && PyObject_GetBuffer(args[5], &head, PyBUF_SIMPLE) == 0 &&
               as_u64(args[6], &offset) && PyObject_GetBuffer(args[7], &data, PyBUF_SIMPLE) == 0 &&
               as_size(args[8], &step);
    if (good && (step < 1 || head.len > HEAD_MAX - OFFSET_LENGTH)) {
        PyErr_SetString(PyExc_ValueError, "a step of less than one byte, or a frame head that is too long");
        good = 0;
    }
    if (good) {
        memcpy(whole, head.buf, (size_t)head.len);
        for (Py_ssize_t at = 0; good && at < data.len; at += step) {
            for (int i = 0; i < OFFSET_LENGTH; i++)
                whole[head.len + i] = (uint8_t)((offset + (uint64_t)at) >> (8 * (OFFSET_LENGTH - 1 - i)));
            whole[head.len] |= 0xC0; /* the 8-byte form of a variable-length integer */
            good = seal_next(self, &run, whole, head.len + OFFSET_LENGTH, (const uint8_t *)data.buf + at,
                             data.len - at < step ? data.len - at : step);
        }
    }
    good = good && protect_headers(self, &run);
    PyBuffer_Release(&data);
    PyBuffer_Release(&head);
    end_sealing(&run);
    return good ? PyLong_FromSsize_t(run.pos) : NULL;
}

/* --- opening */

static PyObject *slice_of(PyObject *view, Py_ssize_t start, Py_ssize_t stop)
{
    PyObject *low = PyLong_FromSsize_t(start), *high = PyLong_FromSsize_t(stop), *slice = NULL, *part = NULL;
    if (low && high && (slice = PySlice_New(low, high, NULL)))
        part = PyObject_GetItem(view, slice);
    Py_XDECREF(slice);
    Py_XDECREF(high);
    Py_XDECREF(low);
    return part;
}

/* Where the packets of `starts` and `stops` begin and end; NULL with an exception if that is not within `size`.
 * `*sampled` becomes 0 if one is too short to hold a sample (RFC 9001 5.4.2). */
static Py_ssize_t *read_bounds(PyObject *starts, PyObject *stops, Py_ssize_t pn_offset, Py_ssize_t size,
                               Py_ssize_t *count, int *sampled)
{
    Py_ssize_t *bounds = NULL;
    PyObject *low = PySequence_Tuple(starts), *high = low ? PySequence_Tuple(stops) : NULL;
    if (!low || !high)
        goto done;
    *count = PyTuple_GET_SIZE(low);
    if (PyTuple_GET_SIZE(high) != *count) {
        PyErr_SetString(PyExc_ValueError, "as many ends as beginnings are needed");
        goto done;
    }
    bounds = PyMem_Malloc((size_t)(*count + 1) * 2 * sizeof *bounds);
    if (!bounds) {
        PyErr_NoMemory();
        goto done;
    }
    *sampled = 1;
    for (Py_ssize_t i = 0; i < *count; i++) {
        Py_ssize_t *start = bounds + 2 * i, *stop = start + 1;
        int good = as_size(PyTuple_GET_ITEM(low, i), start) && as_size(PyTuple_GET_ITEM(high, i), stop);
        if (good && (*start < 0 || *stop > size || *start > *stop)) {
            PyErr_SetString(PyExc_ValueError, "a packet outside of the data");
            good = 0;
        }
        if (!good) {
            PyMem_Free(bounds);
            bounds = NULL;
            break;
        }
        if (size - *start < pn_offset + PN_MAX + SAMPLE_LENGTH)
            *sampled = 0;
    }
done:
    Py_XDECREF(high);
    Py_XDECREF(low);
    return bounds;
}

static int append_number(PyObject *list, Py_ssize_t number)
{
    PyObject *object = PyLong_FromSsize_t(number);
    int good = object && PyList_Append(list, object) == 0;
    Py_XDECREF(object);
    return good;
}

static int append_opened(PyObject *list, uint64_t pn, uint8_t first, PyObject *out, Py_ssize_t start, Py_ssize_t stop)
{
    PyObject *payload = slice_of(out, start, stop);
    PyObject *tuple = payload ? Py_BuildValue("KiN", (unsigned long long)pn, (int)first, payload) : NULL;
    int good = tuple && PyList_Append(list, tuple) == 0;
    Py_XDECREF(tuple);
    return good;
}

/* The packets between `bounds` whose tags are right, into `opened`; indices of those of another phase into `other`. */
static int open_packets(Protection *self, const Py_buffer *data, const Py_ssize_t *bounds, Py_ssize_t count,
                        Py_ssize_t pn_offset, uint64_t expected, PyObject *out, int phase, PyObject *opened,
                        PyObject *other)
{
    uint8_t samples[RUN_MAX * SAMPLE_LENGTH], masks[RUN_MAX * SAMPLE_LENGTH];
    const uint8_t *bytes = data->buf;
    const Py_buffer *target = PyMemoryView_GET_BUFFER(out);
    uint8_t first_bits = bytes[bounds[0]] & LONG_FORM ? 0x0F : 0x1F;
    Py_ssize_t position = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_ssize_t within = i % RUN_MAX;
        if (!within) {
            Py_ssize_t run = count - i < RUN_MAX ? count - i : RUN_MAX;
            for (Py_ssize_t j = 0; j < run; j++)
                memcpy(samples + j * SAMPLE_LENGTH, bytes + bounds[2 * (i + j)] + pn_offset + PN_MAX, SAMPLE_LENGTH);
            if (!make_masks(self, samples, run, masks))
                return crypto_error("header protection");
        }
        const uint8_t *mask = masks + within * SAMPLE_LENGTH;
        const uint8_t *start = bytes + bounds[2 * i], *stop = bytes + bounds[2 * i + 1];
        uint8_t first = start[0] ^ (mask[0] & first_bits);
        if (phase >= 0 && (first & KEY_PHASE) != phase) {
            if (!append_number(other, i))
                return 0;
            continue;
        }
        int pn_length = (first & 3) + 1;
        Py_ssize_t size = stop - start - pn_offset - pn_length - TAG_LENGTH;
        if (size < 0)
            continue;
        if (size > target->len - position) {
            PyErr_SetString(PyExc_ValueError, "no room for what the packets hold");
            return 0;
        }
        uint32_t truncated = (read_u32(start + pn_offset) ^ read_u32(mask + 1)) >> (32 - 8 * pn_length);
        uint64_t pn = recover_pn(expected, truncated, pn_length);
        if (!open_packet(self, start, stop, pn_offset, first, pn, pn_length, (uint8_t *)target->buf + position))
            continue;
        if (!append_opened(opened, pn, first, out, position, position + size))
            return 0;
        position += size;
        if (pn >= expected)
            expected = pn + 1;
    }
    return 1;
}

/* open_run(data, starts, stops, pn_offset, largest_pn, out, phase=-1) */
static PyObject *open_run(Protection *self, PyObject *const *args, Py_ssize_t count)
{
    Py_buffer data = {.obj = NULL};
    Py_ssize_t pn_offset, largest, phase = -1, packets = 0, *bounds = NULL;
    int sampled = 0, good;
    PyObject *opened = NULL, *other = NULL;
    if (count != 7 && !has_arguments(count, 6, "open_run"))
        return NULL;
    if (!PyMemoryView_Check(args[5]) || PyMemoryView_GET_BUFFER(args[5])->readonly ||
        !PyBuffer_IsContiguous(PyMemoryView_GET_BUFFER(args[5]), 'C')) {
        PyErr_SetString(PyExc_TypeError, "what is opened goes into a memoryview that can be written");
        return NULL;
    }
    good = opening_context(self) && PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) == 0 &&
           as_size(args[3], &pn_offset) && as_size(args[4], &largest) &&
           (count == 6 || as_size(args[6], &phase));
    if (good && (pn_offset < 1 || pn_offset > INT32_MAX || largest < -1)) {
        PyErr_SetString(PyExc_ValueError, "no such packet number, or nowhere");
        good = 0;
    }
    good = good && (bounds = read_bounds(args[1], args[2], pn_offset, data.len, &packets, &sampled)) != NULL &&
           (opened = PyList_New(0)) != NULL && (other = PyList_New(0)) != NULL;
    if (good && sampled && packets)
        good = open_packets(self, &data, bounds, packets, pn_offset, (uint64_t)(largest + 1), args[5], (int)phase,
                            opened, other);
    PyMem_Free(bounds);
    PyBuffer_Release(&data);
    if (good)
        return Py_BuildValue("NN", opened, other);
    Py_XDECREF(opened);
    Py_XDECREF(other);
    return NULL;
}

/* How many packets of a stream run have the header that we expect, and how much stream data they hold.
 * `start[i]`, unmasked, is `firsts[i]`. */
static Py_ssize_t expected_headers(const uint8_t *data, Py_ssize_t length, Py_ssize_t segment, Py_ssize_t pn_offset,
                                   uint64_t pn, int phase, Py_ssize_t head_length, const uint8_t *masks,
                                   Py_ssize_t count, uint8_t *firsts, Py_ssize_t *total)
{
    *total = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        const uint8_t *start = data + i * segment, *mask = masks + i * SAMPLE_LENGTH;
        Py_ssize_t size = length - i * segment < segment ? length - i * segment : segment;
        uint8_t first = start[0] ^ (mask[0] & 0x1F);
        int pn_length = (first & 3) + 1;
        uint32_t truncated = (read_u32(start + pn_offset) ^ read_u32(mask + 1)) >> (32 - 8 * pn_length);
        size -= pn_offset + pn_length + TAG_LENGTH + head_length;
        if (first & (LONG_FORM | SHORT_RESERVED) || (phase >= 0 && (first & KEY_PHASE) != phase) || size <= 0 ||
            truncated != ((pn + (uint64_t)i) & (((uint64_t)1 << 8 * pn_length) - 1)))
            return i;
        firsts[i] = first;
        *total += size;
    }
    return count;
}

/* open_stream_run(data, segment_size, pn_offset, pn, phase, head, offset) */
static PyObject *open_stream_run(Protection *self, PyObject *const *args, Py_ssize_t count)
{
    Py_buffer data = {.obj = NULL}, head = {.obj = NULL};
    Py_ssize_t segment, pn_offset, phase, packets, total, at = 0, opened = 0, head_length = 0;
    uint64_t pn, offset;
    uint8_t samples[RUN_MAX * SAMPLE_LENGTH], masks[RUN_MAX * SAMPLE_LENGTH], firsts[RUN_MAX];
    uint8_t whole[HEAD_MAX], tail[HEAD_MAX];
    PyObject *buffer = NULL, *view, *part;
    if (!has_arguments(count, 7, "open_stream_run"))
        return NULL;
    int good = opening_context(self) && PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) == 0 &&
               as_size(args[1], &segment) && as_size(args[2], &pn_offset) && as_u64(args[3], &pn) &&
               as_size(args[4], &phase) && PyObject_GetBuffer(args[5], &head, PyBUF_SIMPLE) == 0 &&
               as_u64(args[6], &offset);
    if (good && (segment < 1 || segment > INT32_MAX || data.len > INT32_MAX || pn_offset < 1 ||
                 pn_offset > HEADER_MAX - PN_MAX || head.len > HEAD_MAX - OFFSET_LENGTH)) {
        PyErr_SetString(PyExc_ValueError, "no such train, header or frame head");
        good = 0;
    }
    if (!good)
        goto done;
    const uint8_t *bytes = data.buf;
    Py_ssize_t sample_at = pn_offset + PN_MAX;
    head_length = head.len + OFFSET_LENGTH;
    memcpy(whole, head.buf, (size_t)head.len);
    for (packets = 0; packets < RUN_MAX && data.len - packets * segment >= sample_at + SAMPLE_LENGTH; packets++)
        memcpy(samples + packets * SAMPLE_LENGTH, bytes + packets * segment + sample_at, SAMPLE_LENGTH);
    if (packets && !make_masks(self, samples, packets, masks)) {
        crypto_error("header protection");
        goto done;
    }
    packets = expected_headers(bytes, data.len, segment, pn_offset, pn, (int)phase, head_length, masks, packets,
                               firsts, &total);
    buffer = PyBytes_FromStringAndSize(NULL, head_length + total);
    if (!buffer)
        goto done;
    /* Each packet is opened so that its frame head falls onto the end of the data before it, which is put back
     * afterwards: what remains is the data of all, one after the other. */
    uint8_t *out = (uint8_t *)PyBytes_AS_STRING(buffer);
    for (; opened < packets; opened++) {
        const uint8_t *start = bytes + opened * segment;
        const uint8_t *stop = data.len - opened * segment < segment ? bytes + data.len : start + segment;
        int pn_length = (firsts[opened] & 3) + 1;
        for (int i = 0; i < OFFSET_LENGTH; i++)
            whole[head.len + i] = (uint8_t)((offset + (uint64_t)at) >> (8 * (OFFSET_LENGTH - 1 - i)));
        whole[head.len] |= 0xC0;
        memcpy(tail, out + at, (size_t)head_length);
        int expected = open_packet(self, start, stop, pn_offset, firsts[opened], pn + (uint64_t)opened, pn_length,
                                   out + at) &&
                       memcmp(out + at, whole, (size_t)head_length) == 0;
        memcpy(out + at, tail, (size_t)head_length);
        if (!expected)
            break;
        at += stop - start - pn_offset - pn_length - TAG_LENGTH - head_length;
    }
    if (opened < packets && _PyBytes_Resize(&buffer, head_length + at) < 0)
        goto done; /* which has set it to NULL */
done:
    PyBuffer_Release(&head);
    PyBuffer_Release(&data);
    if (!buffer)
        return NULL;
    view = PyMemoryView_FromObject(buffer);
    Py_DECREF(buffer);
    part = view ? slice_of(view, head_length, head_length + at) : NULL;
    Py_XDECREF(view);
    return part ? Py_BuildValue("nN", opened, part) : NULL;
}

/* --- the type and the module */

static PyObject *new_protection(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"key", "iv", "hp", "chacha20", NULL};
    Py_buffer key, iv, hp;
    int chacha20;
    Protection *self = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "y*y*y*$p", names, &key, &iv, &hp, &chacha20))
        return NULL;
    const Suite *suite = NULL;
    for (size_t i = 0; i < sizeof suites / sizeof *suites; i++)
        if (suites[i].key_length == key.len && suites[i].chacha20 == chacha20)
            suite = &suites[i];
    if (!suite || iv.len != IV_LENGTH || hp.len != key.len) {
        PyErr_SetString(PyExc_ValueError, "keys of these lengths belong to no cipher suite");
    } else if ((self = (Protection *)type->tp_alloc(type, 0))) {
        self->suite = suite;
        memcpy(self->key, key.buf, (size_t)key.len);
        memcpy(self->iv, iv.buf, IV_LENGTH);
        memcpy(self->hp, hp.buf, (size_t)hp.len);
        self->masking = new_context(suite->mask, self->hp, 1);
        if (!self->masking)
            Py_CLEAR(self);
    }
    PyBuffer_Release(&key);
    PyBuffer_Release(&iv);
    PyBuffer_Release(&hp);
    return (PyObject *)self;
}

static void free_protection(Protection *self)
{
    PyTypeObject *type = Py_TYPE(self);
    EVP_CIPHER_CTX_free(self->sealing);
    EVP_CIPHER_CTX_free(self->opening);
    EVP_CIPHER_CTX_free(self->masking);
    OPENSSL_cleanse(self->key, KEY_MAX);
    OPENSSL_cleanse(self->hp, KEY_MAX);
    type->tp_free(self);
    Py_DECREF(type);
}

#define METHOD(name) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, NULL}
static PyMethodDef methods[] = {
    METHOD(seal_run), METHOD(seal_stream_run), METHOD(open_run), METHOD(open_stream_run), {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, new_protection},
    {Py_tp_dealloc, free_protection},
    {Py_tp_methods, methods},
    {Py_tp_doc, (void *)"See quicfs.transport.protection.Protection."},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "quicfs.transport._protection.Protection",
    .basicsize = sizeof(Protection),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};

static int fill_module(PyObject *module)
{
    for (size_t i = 0; i < sizeof suites / sizeof *suites; i++) {
        Suite *suite = &suites[i];
        if (!suite->aead && !(suite->aead = EVP_CIPHER_fetch(NULL, suite->aead_name, NULL)))
            break;
        if (!suite->mask && !(suite->mask = EVP_CIPHER_fetch(NULL, suite->mask_name, NULL)))
            break;
    }
    for (size_t i = 0; i < sizeof suites / sizeof *suites; i++)
        if (!suites[i].aead || !suites[i].mask) {
            ERR_clear_error(); /* a libcrypto that is restricted to some ciphers */
            PyErr_Format(PyExc_ImportError, "libcrypto has no %s", suites[i].aead_name);
            return -1;
        }
    PyObject *type = PyType_FromSpec(&spec);
    int result = type ? PyModule_AddObjectRef(module, "Protection", type) : -1;
    Py_XDECREF(type);
    return result;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, fill_module}, {0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "quicfs.transport._protection",
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__protection(void)
{
    return PyModuleDef_Init(&definition);
}
