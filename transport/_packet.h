/* One packet at a time: ciphers, nonces, masks and packet numbers (RFC 9001 5.3, 5.4). For _protection.c only. */
#ifndef QUICFS_PACKET_H
#define QUICFS_PACKET_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <stdint.h>
#include <string.h>

enum {
    IV_LENGTH = 12,
    KEY_MAX = 32,
    TAG_LENGTH = 16,
    SAMPLE_LENGTH = 16,
    PN_MAX = 4,
    RUN_MAX = 256,   /* packets whose masks are made in one call */
    HEADER_MAX = 64, /* headers up to here are put together on the stack: all short ones */
    HEAD_MAX = 16,   /* of a STREAM frame: type, ID and offset */
    OFFSET_LENGTH = 8,
    LONG_FORM = 0x80,
    SHORT_RESERVED = 0x18,
    KEY_PHASE = 0x04,
};

typedef struct {
    const char *aead_name, *mask_name;
    Py_ssize_t key_length;
    int chacha20;
    EVP_CIPHER *aead, *mask;
} Suite;

static Suite suites[] = {
    {"AES-128-GCM", "AES-128-ECB", 16, 0, NULL, NULL},
    {"AES-256-GCM", "AES-256-ECB", 32, 0, NULL, NULL},
    {"ChaCha20-Poly1305", "ChaCha20", 32, 1, NULL, NULL},
};

typedef struct {
    PyObject_HEAD
    const Suite *suite;
    EVP_CIPHER_CTX *sealing, *opening; /* made when first used: keys serve one direction */
    EVP_CIPHER_CTX *masking;
    uint8_t iv[IV_LENGTH];
    uint8_t key[KEY_MAX];
    uint8_t hp[KEY_MAX];
} Protection;

static inline int crypto_error(const char *what)
{
    ERR_clear_error(); /* others in this thread look at the queue of errors, ssl for one */
    PyErr_Format(PyExc_RuntimeError, "libcrypto: %s failed", what);
    return 0;
}

static inline EVP_CIPHER_CTX *new_context(const EVP_CIPHER *cipher, const uint8_t *key, int sealing)
{
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    if (!context || !EVP_CipherInit_ex(context, cipher, NULL, key, NULL, sealing) ||
        !EVP_CIPHER_CTX_set_padding(context, 0)) {
        EVP_CIPHER_CTX_free(context);
        crypto_error("setting up a cipher");
        return NULL;
    }
    return context;
}

static inline EVP_CIPHER_CTX *sealing_context(Protection *self)
{
    if (!self->sealing)
        self->sealing = new_context(self->suite->aead, self->key, 1);
    return self->sealing;
}

static inline EVP_CIPHER_CTX *opening_context(Protection *self)
{
    if (!self->opening)
        self->opening = new_context(self->suite->aead, self->key, 0);
    return self->opening;
}

/* RFC 9001 5.3: the packet number, in network order, over the end of the IV. */
static inline void make_nonce(const Protection *self, uint64_t pn, uint8_t nonce[IV_LENGTH])
{
    memcpy(nonce, self->iv, IV_LENGTH);
    for (int i = IV_LENGTH - 1; pn; i--, pn >>= 8)
        nonce[i] ^= (uint8_t)pn;
}

/* Masks for `count` samples, 16 bytes apart, of which the first 5 count (RFC 9001 5.4.3, 5.4.4). */
static inline int make_masks(Protection *self, const uint8_t *samples, Py_ssize_t count, uint8_t *masks)
{
    static const uint8_t zeros[SAMPLE_LENGTH];
    int length;
    if (!self->suite->chacha20)
        return EVP_EncryptUpdate(self->masking, masks, &length, samples, (int)count * SAMPLE_LENGTH);
    for (Py_ssize_t i = 0; i < count * SAMPLE_LENGTH; i += SAMPLE_LENGTH)
        if (!EVP_EncryptInit_ex(self->masking, NULL, NULL, NULL, samples + i) ||
            !EVP_EncryptUpdate(self->masking, masks + i, &length, zeros, SAMPLE_LENGTH))
            return 0;
    return 1;
}

static inline uint32_t read_u32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static inline void write_pn(uint8_t *at, uint64_t pn, int pn_length)
{
    for (int i = pn_length - 1; i >= 0; i--, pn >>= 8)
        at[i] = (uint8_t)pn;
}

/* One packet, its header where it belongs already; the payload in two pieces, of which the first may be empty. */
static inline int seal_packet(Protection *self, uint64_t pn, const uint8_t *header, Py_ssize_t header_length,
                              const uint8_t *head, Py_ssize_t head_length, const uint8_t *data,
                              Py_ssize_t data_length, uint8_t *body)
{
    EVP_CIPHER_CTX *context = self->sealing;
    uint8_t nonce[IV_LENGTH];
    int length;
    make_nonce(self, pn, nonce);
    return EVP_EncryptInit_ex(context, NULL, NULL, NULL, nonce) &&
           EVP_EncryptUpdate(context, NULL, &length, header, (int)header_length) &&
           (!head_length || EVP_EncryptUpdate(context, body, &length, head, (int)head_length)) &&
           (!data_length || EVP_EncryptUpdate(context, body + head_length, &length, data, (int)data_length)) &&
           EVP_EncryptFinal_ex(context, body + head_length + data_length, &length) &&
           EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, TAG_LENGTH, body + head_length + data_length);
}

/* The packet [start, stop), whose protected header has `pn_offset` + `pn_length` bytes, into `out`.
 * 1 if it is authentic, 0 if not. */
static inline int open_packet(Protection *self, const uint8_t *start, const uint8_t *stop, Py_ssize_t pn_offset,
                              uint8_t first, uint64_t pn, int pn_length, uint8_t *out)
{
    EVP_CIPHER_CTX *context = self->opening;
    const uint8_t *body = start + pn_offset + pn_length;
    Py_ssize_t size = stop - body - TAG_LENGTH;
    uint8_t nonce[IV_LENGTH], header[HEADER_MAX];
    int length;
    make_nonce(self, pn, nonce);
    if (!EVP_DecryptInit_ex(context, NULL, NULL, NULL, nonce))
        return 0;
    header[0] = first;
    if (pn_offset + pn_length <= HEADER_MAX) {
        memcpy(header + 1, start + 1, (size_t)pn_offset - 1);
        write_pn(header + pn_offset, pn, pn_length);
        if (!EVP_DecryptUpdate(context, NULL, &length, header, (int)pn_offset + pn_length))
            return 0;
    } else {
        write_pn(header + 1, pn, pn_length);
        if (!EVP_DecryptUpdate(context, NULL, &length, header, 1) ||
            !EVP_DecryptUpdate(context, NULL, &length, start + 1, (int)pn_offset - 1) ||
            !EVP_DecryptUpdate(context, NULL, &length, header + 1, pn_length))
            return 0;
    }
    if ((!size || EVP_DecryptUpdate(context, out, &length, body, (int)size)) &&
        EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, TAG_LENGTH, (void *)(stop - TAG_LENGTH)) &&
        EVP_DecryptFinal_ex(context, out + size, &length))
        return 1;
    ERR_clear_error();
    return 0;
}

/* RFC 9000 A.3: the number closest to the expected one that ends in these bits. */
static inline uint64_t recover_pn(uint64_t expected, uint32_t truncated, int pn_length)
{
    uint64_t window = (uint64_t)1 << 8 * pn_length, pn = (expected & -window) | truncated;
    if (pn == expected)
        return pn;
    if (pn + window / 2 <= expected && pn + window < (uint64_t)1 << 62)
        return pn + window;
    if (pn > expected + window / 2 && pn >= window)
        return pn - window;
    return pn;
}

#endif
