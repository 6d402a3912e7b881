/* The floor: the least a client can do and still measure as loadlib does.
 *
 * A closed loop over keep-alive connections: one epoll, one recvmsg per ready socket, the kernel's
 * receive time, and just enough parsing to find the events. It validates nothing; what it costs
 * is what the kernel and the bytes cost. docs/measurement.md says how it is compared.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "kernel_time.h"

#define READ_ROOM (256 * 1024)
#define MARK "\"content\":\""
#define MARK_LEN (sizeof MARK - 1)

static struct {
  int port;
  int64_t streams, requests, body_bytes, tokens;
  double duration_s;
  const char *rows;
} opt = {0, 1, INT64_MAX, 400, 100, 0, NULL};

typedef struct {
  int fd, writing, in_body;
  int64_t sent_ns, first_ns, last_ns, events;
  size_t written;
  char *kept; /* what was read and is no whole chunk (or head) yet */
  size_t kept_len, kept_room;
  char id[64];
} stream_t;

static int poll_fd;
static offset_t offset;
static int64_t unstamped, begun, finished, tokens_seen, in_flight, stop_ns = INT64_MAX;
static uint32_t ttft[US_COUNTERS], gaps[US_COUNTERS];
static char *request, input[READ_ROOM];
static size_t request_len;
static FILE *rows;

static void fail(const char *what) {
  fprintf(stderr, "error: %s\n", what);
  exit(1);
}

/* -- sending ------------------------------------------------------------------------------ */

static void build_request(void) {
  char body[512];
  int start = snprintf(body, sizeof body,
                       "{\"model\":\"gpt-4o-mini\",\"max_tokens\":%lld,\"stream\":true,"
                       "\"stream_options\":{\"include_usage\":true},"
                       "\"messages\":[{\"role\":\"user\",\"content\":\"",
                       (long long)opt.tokens);
  static const char end[] = "\"}]}";
  int64_t padding = opt.body_bytes - start - (int64_t)sizeof end + 1;
  if (padding < 1) padding = 1;
  request = malloc((size_t)padding + 1024);
  if (!request) die("memory");
  int at = sprintf(request,
                   "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n"
                   "content-type: application/json\r\naccept: text/event-stream\r\n"
                   "content-length: %lld\r\n\r\n%s",
                   opt.port, (long long)(start + padding + (int64_t)sizeof end - 1), body);
  memset(request + at, 'x', (size_t)padding);
  memcpy(request + at + padding, end, sizeof end - 1);
  request_len = (size_t)(at + padding) + sizeof end - 1;
}

static void watch(stream_t *s, int writing) {
  if (s->writing == writing) return;
  s->writing = writing;
  struct epoll_event wanted = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = s};
  if (epoll_ctl(poll_fd, EPOLL_CTL_MOD, s->fd, &wanted)) die("epoll_ctl");
}

static void write_on(stream_t *s) {
  while (s->written < request_len) {
    ssize_t went = send(s->fd, request + s->written, request_len - s->written,
                        MSG_DONTWAIT | MSG_NOSIGNAL);
    if (went < 0 && errno == EAGAIN) break;
    if (went < 0) die("send");
    s->written += (size_t)went;
  }
  watch(s, s->written < request_len);
}

static void begin(stream_t *s) {
  int64_t now = now_ns();
  if (begun >= opt.requests || now >= stop_ns) return;
  begun++;
  in_flight++;
  s->in_body = 0;
  s->events = 0;
  s->written = 0;
  s->sent_ns = now;
  write_on(s);
}

/* -- receiving ---------------------------------------------------------------------------- */

static void finish(stream_t *s) {
  finished++;
  in_flight--;
  if (rows)
    fprintf(rows,
            "{\"id\":\"%s\",\"sent_ns\":%lld,\"first_ns\":%lld,\"last_ns\":%lld,\"events\":%lld}\n",
            s->id, (long long)s->sent_ns, (long long)s->first_ns, (long long)s->last_ns,
            (long long)s->events);
  begin(s);
}

static void token(stream_t *s, int64_t at) {
  if (!s->events++) {
    s->first_ns = at;
    count_us(ttft, at - s->sent_ns, 1);
  } else count_us(gaps, at - s->last_ns, 1);
  s->last_ns = at;
  tokens_seen++;
}

/* Counts the events of one chunk whose delta has a content that is not empty. */
static void scan(stream_t *s, const char *chunk, size_t len, int64_t at) {
  const char *end = chunk + len, *found;
  while ((found = memmem(chunk, (size_t)(end - chunk), MARK, MARK_LEN))) {
    chunk = found + MARK_LEN;
    if (chunk < end && *chunk != '"') token(s, at);
  }
}

/* Returns the length of the head, 0 while it is incomplete. */
static size_t take_head(stream_t *s, const char *bytes, size_t len) {
  const char *end = memmem(bytes, len, "\r\n\r\n", 4);
  if (!end) return 0;
  if (len < 12 || memcmp(bytes + 9, "200", 3)) fail("the server does not answer with 200");
  static const char name[] = "\r\nx-request-id: ";
  const char *id = memmem(bytes, (size_t)(end - bytes), name, sizeof name - 1);
  s->id[0] = 0;
  if (id) sscanf(id + sizeof name - 1, "%63[^\r\"\\]", s->id);
  s->in_body = 1;
  return (size_t)(end + 4 - bytes);
}

/* Returns the length of the first whole chunk, framing included, 0 while it is incomplete. */
static size_t take_chunk(stream_t *s, const char *bytes, size_t len, int64_t at) {
  size_t size = 0, i = 0;
  for (; i < len && bytes[i] != '\r'; i++) {
    int c = bytes[i];
    size = size * 16 + (size_t)(c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
  }
  if (len < i + 2 + size + 2) return 0;
  if (size) scan(s, bytes + i + 2, size, at);
  else s->in_body = -1;
  return i + 2 + size + 2;
}

static void keep(stream_t *s, const char *bytes, size_t len) {
  if (len > s->kept_room) {
    s->kept_room = len + 1024;
    char *grown = malloc(s->kept_room); /* `bytes` may lie in the old one */
    if (!grown) die("memory");
    memcpy(grown, bytes, len);
    free(s->kept);
    s->kept = grown;
  } else if (len) memmove(s->kept, bytes, len);
  s->kept_len = len;
}

static void digest(stream_t *s, const char *bytes, size_t len, int64_t at) {
  while (len) {
    size_t used = s->in_body ? take_chunk(s, bytes, len, at) : take_head(s, bytes, len);
    if (!used) break;
    bytes += used;
    len -= used;
    if (s->in_body < 0) {
      if (len) fail("bytes after the end of a response");
      s->kept_len = 0;
      finish(s);
      return;
    }
  }
  keep(s, bytes, len);
}

static void receive(stream_t *s) {
  int64_t at;
  if (s->kept_len > READ_ROOM / 2) fail("a chunk is too long");
  memcpy(input, s->kept_len ? s->kept : "", s->kept_len);
  ssize_t got = read_stamped(s->fd, input + s->kept_len, READ_ROOM - s->kept_len, &offset, &at,
                             &unstamped);
  if (got < 0 && errno == EAGAIN) return;
  if (got <= 0) fail("the server closed a connection");
  digest(s, input, s->kept_len + (size_t)got, at);
}

/* -- the run ------------------------------------------------------------------------------ */

static stream_t *connect_all(void) {
  struct sockaddr_in to = {.sin_family = AF_INET,
                           .sin_port = htons((uint16_t)opt.port),
                           .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  stream_t *streams = calloc((size_t)opt.streams, sizeof *streams);
  if (!streams) die("memory");
  for (stream_t *s = streams; s < streams + opt.streams; s++) {
    int on = 1;
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s->fd < 0) die("socket");
    ask_for_kernel_time(s->fd);
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(s->fd, (struct sockaddr *)&to, sizeof to)) die("connect");
    fcntl(s->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = s};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, s->fd, &wanted)) die("epoll_ctl");
  }
  return streams;
}

static double cpu_s(void) {
  struct rusage used;
  getrusage(RUSAGE_SELF, &used);
  return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
         (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void run(stream_t *streams) {
  struct epoll_event events[256];
  if (opt.duration_s > 0) stop_ns = now_ns() + (int64_t)(opt.duration_s * 1e9);
  for (stream_t *s = streams; s < streams + opt.streams; s++) begin(s);
  while (in_flight) {
    int n = epoll_wait(poll_fd, events, 256, -1);
    if (n < 0 && errno != EINTR) die("epoll_wait");
    for (int i = 0; i < n; i++) {
      stream_t *s = events[i].data.ptr;
      if (events[i].events & EPOLLOUT) write_on(s);
      if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(s);
    }
  }
}

static void print_ms(const char *name, const uint32_t *counters, double p) {
  int64_t us = quantile_us(counters, p);
  if (us < 0) printf("\"%s\":null,", name);
  else printf("\"%s\":%.3f,", name, (double)us / 1e3);
}

static void read_options(int argc, char **argv) {
  int i = 1;
  for (; i + 1 < argc; i += 2) {
    const char *name = argv[i], *text = argv[i + 1];
    if (!strcmp(name, "--port")) opt.port = atoi(text);
    else if (!strcmp(name, "--streams")) opt.streams = atoll(text);
    else if (!strcmp(name, "--requests")) opt.requests = atoll(text);
    else if (!strcmp(name, "--body-bytes")) opt.body_bytes = atoll(text);
    else if (!strcmp(name, "--tokens")) opt.tokens = atoll(text);
    else if (!strcmp(name, "--duration")) opt.duration_s = atof(text);
    else if (!strcmp(name, "--rows")) opt.rows = text;
    else break;
  }
  int endless = opt.requests == INT64_MAX && opt.duration_s <= 0;
  if (i < argc || !opt.port || opt.streams < 1 || endless) {
    fputs("usage: floor_client --port P [--streams S] [--body-bytes B] [--tokens N]"
          " [--rows FILE] --requests N | --duration S\n", stderr);
    exit(2);
  }
}

int main(int argc, char **argv) {
  read_options(argc, argv);
  raise_file_limit();
  if (opt.rows && !(rows = fopen(opt.rows, "w"))) die(opt.rows);
  build_request();
  poll_fd = epoll_create1(EPOLL_CLOEXEC);
  stream_t *streams = connect_all();
  double cpu = cpu_s();
  int64_t start = now_ns();
  run(streams);
  double wall_s = (double)(now_ns() - start) / 1e9;
  cpu = cpu_s() - cpu;
  if (rows && fclose(rows)) die(opt.rows);
  printf("{\"requests\":%lld,\"events\":%lld,", (long long)finished, (long long)tokens_seen);
  print_ms("ttft_p50_ms", ttft, 0.5);
  print_ms("ttft_p99_ms", ttft, 0.99);
  print_ms("icl_p50_ms", gaps, 0.5);
  print_ms("icl_p99_ms", gaps, 0.99);
  printf("\"unstamped\":%lld,\"cpu_s\":%.6f,\"wall_s\":%.6f}\n", (long long)unstamped, cpu, wall_s);
}
