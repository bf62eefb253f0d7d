/* The messages between the init helper and whoever waits for it, over a SOCK_SEQPACKET socket: create first, start
 * later. ocipy/launch/protocol.py has the other half. */
#ifndef OCIPY_PROTOCOL_H
#define OCIPY_PROTOCOL_H

#include <stdint.h>

enum msg_type { MSG_SYNC = 1, MSG_FORKED = 2, MSG_READY = 3, MSG_ERROR = 4, MSG_ACK = 5, MSG_START = 6, MSG_PART = 7, MSG_LISTENER = 8, MSG_HOOKED = 9 };

struct msg {
    uint32_t type;
    uint32_t op;   /* index of the operation in the plan */
    int32_t value; /* SYNC: 0; FORKED: pid; ERROR: errno */
    uint32_t size; /* of the text that follows */
};

#endif
