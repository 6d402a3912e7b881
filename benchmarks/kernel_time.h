/* What both programs need: the monotonic clock, and the kernel's receive time on it. */
#ifndef KERNEL_TIME_H
#define KERNEL_TIME_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

#define NS_PER_S 1000000000LL
#define NS_PER_US 1000LL

static inline int64_t clock_ns(clockid_t which) {
  struct timespec t;
  clock_gettime(which, &t);
  return t.tv_sec * NS_PER_S + t.tv_nsec;
}

static inline int64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

static inline void die(const char *what) {
  fprintf(stderr, "error: %s: %s\n", what, strerror(errno));
  exit(1);
}

/* realtime - monotonic; the kernel stamps packets with the former, which may step. */
typedef struct {
  int64_t ns;
  int64_t sampled_ns;
} offset_t;

/* Sampled again every 100 ms; of five tries the one with the tightest bracket counts. */
static inline int64_t offset_ns(offset_t *offset) {
  int64_t now = now_ns();
  if (offset->sampled_ns && now - offset->sampled_ns < NS_PER_S / 10) return offset->ns;
  int64_t tightest = INT64_MAX;
  for (int i = 0; i < 5; i++) {
    int64_t before = now_ns(), real = clock_ns(CLOCK_REALTIME), after = now_ns();
    if (after - before < tightest) {
      tightest = after - before;
      offset->ns = real - (before + after) / 2;
    }
  }
  offset->sampled_ns = now;
  return offset->ns;
}

static inline void ask_for_kernel_time(int fd) {
  int on = 1;
  if (setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on)) die("SO_TIMESTAMPNS");
}

/* One read. `at` becomes the monotonic instant at which the last byte read reached the kernel;
 * without a stamp it is the clock now, and *unstamped is counted up. Returns as recv does. */
static inline ssize_t read_stamped(int fd, void *into, size_t room, offset_t *offset, int64_t *at,
                                   int64_t *unstamped) {
  union {
    char bytes[CMSG_SPACE(sizeof(struct timespec))];
    struct cmsghdr align;
  } control;
  struct iovec piece = {into, room};
  struct msghdr message = {.msg_iov = &piece,
                           .msg_iovlen = 1,
                           .msg_control = control.bytes,
                           .msg_controllen = sizeof control.bytes};
  ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT);
  if (got <= 0) return got;
  struct cmsghdr *head = CMSG_FIRSTHDR(&message);
  if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_TIMESTAMPNS) {
    struct timespec stamp;
    memcpy(&stamp, CMSG_DATA(head), sizeof stamp);
    *at = stamp.tv_sec * NS_PER_S + stamp.tv_nsec - offset_ns(offset);
  } else {
    *at = now_ns();
    ++*unstamped;
  }
  return got;
}

/* As many open files as this account may have. */
static inline void raise_file_limit(void) {
  struct rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files)) return;
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
}

/* Counts of whole microseconds; what lies beyond the last counter is in the last counter. */
#define US_COUNTERS 4000000

static inline void count_us(uint32_t *counters, int64_t ns, uint32_t times) {
  int64_t us = ns < 0 ? 0 : (ns + NS_PER_US / 2) / NS_PER_US;
  counters[us < US_COUNTERS ? us : US_COUNTERS - 1] += times;
}

/* Nearest rank: the counter at which ceil(p * n) values have been seen; -1 of nothing. */
static inline int64_t quantile_us(const uint32_t *counters, double p) {
  int64_t n = 0, seen = 0;
  for (int64_t us = 0; us < US_COUNTERS; us++) n += counters[us];
  double exact = p * (double)n;
  int64_t rank = (int64_t)exact + (exact > (double)(int64_t)exact);
  for (int64_t us = 0; us < US_COUNTERS; us++) {
    seen += counters[us];
    if (n && seen >= (rank ? rank : 1)) return us;
  }
  return -1;
}

#endif
