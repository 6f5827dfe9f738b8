/* Joins two TUN devices, and gives each direction a delay, a serialised rate and a drop-tail queue, as netem and tbf do
 * in kernels that have them. Packets pass unchanged, TSO's super-packets too (their vnet header says how many segments
 * they stand for), so handshakes, slow start and congestion control are the kernel's own.
 *
 *   netemu DEVICE_A DEVICE_B DELAY_US RATE_BIT_S QUEUE_BYTES
 *
 * Prints "ready" once both devices exist; they may then be moved into namespaces. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define SEGMENT_HEADERS 52 /* IP and TCP with timestamps, which each segment of a super-packet carries */
#define FRAME 38           /* Ethernet's preamble, header, checksum and gap */

typedef struct packet {
  struct packet *next;
  uint64_t due;
  int length;
  char bytes[];
} packet;

typedef struct {
  int in, out;
  uint64_t free_at; /* when the line has sent what was given to it so far */
  packet *head, *tail;
} direction;

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static int make_device(const char *name) {
  int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) {
    perror("/dev/net/tun");
    exit(1);
  }
  struct ifreq request;
  memset(&request, 0, sizeof request);
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  request.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR;
  if (ioctl(fd, TUNSETIFF, &request)) {
    perror("TUNSETIFF");
    exit(1);
  }
  int size = sizeof(struct virtio_net_hdr);
  ioctl(fd, TUNSETVNETHDRSZ, &size);
  if (ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)) perror("TUNSETOFFLOAD");
  return fd;
}

/* Bytes on the wire for a packet of `size` bytes with its vnet header. */
static uint64_t wire_bytes(const char *buffer, ssize_t size) {
  const struct virtio_net_hdr *header = (const void *)buffer;
  int64_t length = size - (ssize_t)sizeof *header, segments = 1;
  if (header->gso_type != VIRTIO_NET_HDR_GSO_NONE && header->gso_size) {
    segments = (length - header->hdr_len + header->gso_size - 1) / header->gso_size;
    if (segments < 1) segments = 1;
  }
  return (uint64_t)(length + (segments - 1) * SEGMENT_HEADERS + segments * FRAME);
}

static void take(direction *d, uint64_t delay, uint64_t rate, uint64_t queue) {
  static char buffer[70000];
  ssize_t size;
  while ((size = read(d->in, buffer, sizeof buffer)) > 0) {
    uint64_t t = now();
    if (d->free_at < t) d->free_at = t;
    if ((double)(d->free_at - t) * (double)rate / (8.0 * SECOND) > (double)queue) continue; /* dropped */
    d->free_at += (uint64_t)((double)wire_bytes(buffer, size) * 8.0 * SECOND / (double)rate);
    packet *p = malloc(sizeof *p + (size_t)size);
    if (!p) continue;
    p->next = NULL;
    p->length = (int)size;
    p->due = d->free_at + delay;
    memcpy(p->bytes, buffer, (size_t)size);
    if (d->tail) d->tail->next = p;
    else d->head = p;
    d->tail = p;
  }
}

static void give(direction *d) {
  uint64_t t = now();
  while (d->head && d->head->due <= t) {
    packet *p = d->head;
    if (write(d->out, p->bytes, (size_t)p->length) < 0 && errno != EIO) perror("write");
    d->head = p->next;
    if (!d->head) d->tail = NULL;
    free(p);
  }
}

int main(int count, char **arguments) {
  if (count != 6) {
    fprintf(stderr, "usage: netemu DEVICE_A DEVICE_B DELAY_US RATE_BIT_S QUEUE_BYTES\n");
    return 2;
  }
  uint64_t delay = strtoull(arguments[3], NULL, 10) * 1000, rate = strtoull(arguments[4], NULL, 10),
           queue = strtoull(arguments[5], NULL, 10);
  prctl(PR_SET_TIMERSLACK, 1000);
  int a = make_device(arguments[1]), b = make_device(arguments[2]);
  direction directions[2] = {{a, b, 0, NULL, NULL}, {b, a, 0, NULL, NULL}};
  puts("ready");
  fflush(stdout);
  for (;;) {
    uint64_t next = UINT64_MAX;
    for (int i = 0; i < 2; i++) {
      take(&directions[i], delay, rate, queue);
      give(&directions[i]);
      if (directions[i].head && directions[i].head->due < next) next = directions[i].head->due;
    }
    struct pollfd waiting[2] = {{a, POLLIN, 0}, {b, POLLIN, 0}};
    if (next == UINT64_MAX) {
      poll(waiting, 2, -1);
    } else {
      uint64_t t = now();
      if (next > t) {
        struct timespec left = {(time_t)((next - t) / SECOND), (long)((next - t) % SECOND)};
        ppoll(waiting, 2, &left, NULL);
      }
    }
  }
}
