/* The truth server: an OpenAI-compatible endpoint of trivial behaviour that records what it did.
 *
 * One thread, one epoll. Every stream has at most one entry in a heap of due instants; one timerfd
 * stands at the earliest. A response is a row of bytes known in advance (head, tokens, tail), so
 * the state of a stream is how far into that row it is allowed to be and how far it is.
 * docs/measurement.md has the protocol.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "kernel_time.h"

#define HEAD_ROOM 1024
#define CHUNK_ROOM 512
#define TAIL_ROOM 1024
#define BATCH (256 * 1024)
#define NO_TIME INT64_MIN

static struct {
  const char *host;
  int port;
  double ttft_ms, gap_ms, spread;
  int64_t ttft_ns, gap_ns, tokens;
} opt = {"127.0.0.1", 0, 200, 20, 0, 0, 0, 100};

typedef struct {
  int64_t n, arrival_ns, received_ns, first_ns, last_ns, events;
} record_t;

typedef struct {
  int fd, slot; /* slot in the heap; -1: none */
  int waits_for_room;
  char request[8192]; /* the request's head, until it is complete */
  size_t request_len;
  int64_t body_left; /* -1: still in the head */
  int is_chat, is_truth, streaming;
  record_t record;
  int64_t scheduled_ns; /* of the first token; token k is due k gaps later */
  int64_t previous_ns;  /* when the last token so far was sent */
  int64_t due_ns;       /* of the next step, as in the heap */
  int64_t released;     /* tokens that may be on the wire; tokens + 1: the tail too */
  int64_t sent;         /* bytes of the response */
  size_t head_len, chunk_len, tail_len;
  char head[HEAD_ROOM], chunk[CHUNK_ROOM], tail[TAIL_ROOM];
  char *reply; /* an answer that is no stream, allocated */
  size_t reply_len;
} stream_t;

static int poll_fd, timer_fd, listen_fd;
static offset_t offset;
static int64_t unstamped, answered, aborted, events_sent;
static uint32_t gaps[US_COUNTERS], lateness[US_COUNTERS];
static record_t *records;
static size_t records_len, records_room;
static stream_t **heap;
static int heap_len, heap_room;
static char batch[BATCH];

/* -- the heap of due instants ------------------------------------------------------------- */

static void place(int at, stream_t *s) {
  heap[at] = s;
  s->slot = at;
}

static void sift(int at) {
  stream_t *s = heap[at];
  for (int up; at && heap[up = (at - 1) / 2]->due_ns > s->due_ns; at = up) place(at, heap[up]);
  for (int down; (down = 2 * at + 1) < heap_len; at = down) {
    if (down + 1 < heap_len && heap[down + 1]->due_ns < heap[down]->due_ns) down++;
    if (heap[down]->due_ns >= s->due_ns) break;
    place(at, heap[down]);
  }
  place(at, s);
}

static void schedule(stream_t *s, int64_t due_ns) {
  s->due_ns = due_ns;
  if (s->slot < 0) {
    if (heap_len == heap_room) {
      heap_room = heap_room ? 2 * heap_room : 1024;
      if (!(heap = realloc(heap, sizeof *heap * (size_t)heap_room))) die("memory");
    }
    place(heap_len++, s);
  }
  sift(s->slot);
}

static void unschedule(stream_t *s) {
  if (s->slot < 0) return;
  stream_t *last = heap[--heap_len];
  if (last != s) {
    place(s->slot, last);
    sift(last->slot);
  }
  s->slot = -1;
}

/* -- what is sent ------------------------------------------------------------------------- */

#define EVENT_START "data: {\"id\":\"chatcmpl-t-%lld\",\"object\":\"chat.completion.chunk\"," \
                    "\"created\":1700000000,\"model\":\"truth\",\"choices\":["
#define EVENT_DELTA EVENT_START "{\"index\":0,\"delta\":{%s},\"finish_reason\":%s}]}\n\n"
#define EVENT_USAGE EVENT_START "],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":%lld," \
                    "\"total_tokens\":%lld}}\n\n"

/* One event as one HTTP chunk. */
static size_t chunked(char *into, size_t room, const char *event) {
  return (size_t)snprintf(into, room, "%zx\r\n%s\r\n", strlen(event), event);
}

static void prepare_bytes(stream_t *s) {
  char event[CHUNK_ROOM];
  long long n = s->record.n, tokens = opt.tokens;
  int head = snprintf(s->head, HEAD_ROOM,
                      "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
                      "cache-control: no-cache\r\ntransfer-encoding: chunked\r\n"
                      "connection: keep-alive\r\nx-request-id: t-%lld\r\n\r\n", n);
  snprintf(event, sizeof event, EVENT_DELTA, n, "\"role\":\"assistant\",\"content\":\"\"", "null");
  s->head_len = (size_t)head + chunked(s->head + head, HEAD_ROOM - (size_t)head, event);
  snprintf(event, sizeof event, EVENT_DELTA, n, "\"content\":\" tok\"", "null");
  s->chunk_len = chunked(s->chunk, CHUNK_ROOM, event);
  snprintf(event, sizeof event, EVENT_DELTA, n, "", "\"stop\"");
  size_t at = chunked(s->tail, TAIL_ROOM, event);
  snprintf(event, sizeof event, EVENT_USAGE, n, tokens, tokens + 10);
  at += chunked(s->tail + at, TAIL_ROOM - at, event);
  at += chunked(s->tail + at, TAIL_ROOM - at, "data: [DONE]\n\n");
  s->tail_len = at + (size_t)snprintf(s->tail + at, TAIL_ROOM - at, "0\r\n\r\n");
}

/* Copies the response's bytes [from, to) into `batch`, as far as they fit. */
static size_t render(const stream_t *s, int64_t from, int64_t to) {
  size_t filled = 0;
  int64_t tokens_end = (int64_t)s->head_len + opt.tokens * (int64_t)s->chunk_len;
  while (from < to && filled < BATCH) {
    const char *piece;
    size_t len;
    if (from < (int64_t)s->head_len) {
      piece = s->head + from;
      len = s->head_len - (size_t)from;
    } else if (from < tokens_end) {
      size_t into = (size_t)(from - (int64_t)s->head_len) % s->chunk_len;
      piece = s->chunk + into;
      len = s->chunk_len - into;
    } else {
      piece = s->tail + (from - tokens_end);
      len = s->tail_len - (size_t)(from - tokens_end);
    }
    if (len > (size_t)(to - from)) len = (size_t)(to - from);
    if (len > BATCH - filled) len = BATCH - filled;
    memcpy(batch + filled, piece, len);
    filled += len;
    from += (int64_t)len;
  }
  return filled;
}

/* -- the life of a stream ----------------------------------------------------------------- */

static void watch(stream_t *s, int for_room) {
  if (s->waits_for_room == for_room) return;
  s->waits_for_room = for_room;
  struct epoll_event wanted = {.events = EPOLLIN | (for_room ? EPOLLOUT : 0), .data.ptr = s};
  if (epoll_ctl(poll_fd, EPOLL_CTL_MOD, s->fd, &wanted)) die("epoll_ctl");
}

static void hang_up(stream_t *s) {
  if (s->streaming) aborted++;
  unschedule(s);
  close(s->fd);
  free(s->reply);
  free(s);
}

static void await_request(stream_t *s) {
  s->request_len = 0;
  s->body_left = -1;
  s->streaming = 0;
  s->record.arrival_ns = NO_TIME;
}

static void finish(stream_t *s) {
  if (records_len == records_room) {
    records_room = records_room ? 2 * records_room : 4096;
    if (!(records = realloc(records, sizeof *records * records_room))) die("memory");
  }
  records[records_len++] = s->record;
  await_request(s);
}

/* Tokens `from` to `to` begin to be sent at `now`. */
static void note_tokens(stream_t *s, int64_t from, int64_t to, int64_t now) {
  if (from >= to) return;
  if (!from) s->record.first_ns = now;
  else count_us(gaps, now - s->previous_ns, 1);
  if (to - from > 1) count_us(gaps, 0, (uint32_t)(to - from - 1));
  s->record.last_ns = s->previous_ns = now;
  s->record.events += to - from;
  events_sent += to - from;
  if (opt.gap_ns) count_us(lateness, now - (s->scheduled_ns + from * opt.gap_ns), 1);
}

static int64_t tokens_begun(const stream_t *s, int64_t at) {
  int64_t bytes = at - (int64_t)s->head_len;
  if (bytes <= 0) return 0;
  int64_t begun = (bytes + (int64_t)s->chunk_len - 1) / (int64_t)s->chunk_len;
  return begun < opt.tokens ? begun : opt.tokens;
}

/* Sends what is released. Returns 0 when the peer has gone (and `s` with it). */
static int push(stream_t *s) {
  int64_t released = s->released < opt.tokens ? s->released : opt.tokens;
  int64_t until = (int64_t)s->head_len + released * (int64_t)s->chunk_len;
  int64_t whole = (int64_t)(s->head_len + s->tail_len) + opt.tokens * (int64_t)s->chunk_len;
  if (s->released > opt.tokens) until = whole;
  while (s->sent < until) {
    size_t size = render(s, s->sent, until);
    int64_t now = now_ns();
    ssize_t went = send(s->fd, batch, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (went < 0 && errno != EAGAIN) {
      hang_up(s);
      return 0;
    }
    if (went < 0) {
      watch(s, 1);
      return 1;
    }
    note_tokens(s, tokens_begun(s, s->sent), tokens_begun(s, s->sent + went), now);
    s->sent += went;
  }
  watch(s, 0);
  if (s->sent == whole) finish(s);
  return 1;
}

/* The step whose time has come: one token, or the tail. */
static void step(stream_t *s) {
  unschedule(s);
  if (opt.gap_ns) s->released++;
  else s->released = opt.tokens + 1;
  if (s->released <= opt.tokens) schedule(s, s->scheduled_ns + s->released * opt.gap_ns);
  push(s);
}

static double share_of(int64_t n) { /* in [-1, 1): the golden ratio's multiples, evenly spread */
  return 2 * fmod((double)n * 0.6180339887498949, 1.0) - 1;
}

static void begin_stream(stream_t *s, int64_t received_ns) {
  s->record.n = ++answered; /* from 1, as the Python server counts */
  s->record.received_ns = received_ns;
  s->record.events = 0;
  prepare_bytes(s);
  double ttft_ns = (double)opt.ttft_ns * (1 + opt.spread * share_of(s->record.n));
  int64_t due = s->record.arrival_ns + (int64_t)ttft_ns;
  s->scheduled_ns = due > received_ns ? due : received_ns;
  s->released = s->sent = 0;
  s->streaming = 1;
  schedule(s, s->scheduled_ns);
  push(s);
}

/* -- answers that are no stream ----------------------------------------------------------- */

static void begin_reply(stream_t *s, const char *status, const char *type, const char *body,
                        size_t len) {
  size_t room = len + 256;
  if (!(s->reply = malloc(room))) die("memory");
  int head = snprintf(s->reply, room,
                      "HTTP/1.1 %s\r\ncontent-type: %s\r\ncontent-length: %zu\r\n\r\n", status,
                      type, len);
  memcpy(s->reply + head, body, len);
  s->reply_len = (size_t)head + len;
  s->sent = 0;
}

static int push_reply(stream_t *s) {
  ssize_t went = send(s->fd, s->reply + s->sent, s->reply_len - (size_t)s->sent,
                      MSG_DONTWAIT | MSG_NOSIGNAL);
  if (went < 0 && errno != EAGAIN) {
    hang_up(s);
    return 0;
  }
  if (went > 0) s->sent += went;
  int done = (size_t)s->sent == s->reply_len;
  watch(s, !done);
  if (done) {
    free(s->reply);
    s->reply = NULL;
    await_request(s);
  }
  return 1;
}

/* Everything since the last time: a line per finished request, then the totals. */
static void begin_truth(stream_t *s) {
  char *text;
  size_t len;
  FILE *out = open_memstream(&text, &len);
  if (!out) die("memory");
  for (const record_t *r = records; r < records + records_len; r++)
    fprintf(out,
            "{\"id\":\"t-%lld\",\"arrival_ns\":%lld,\"received_ns\":%lld,\"first_ns\":%lld,"
            "\"last_ns\":%lld,\"events\":%lld}\n",
            (long long)r->n, (long long)r->arrival_ns, (long long)r->received_ns,
            (long long)r->first_ns, (long long)r->last_ns, (long long)r->events);
  const char *comma = "";
  fputs("{\"gap_us\":[", out);
  for (int us = 0; us < US_COUNTERS; us++)
    if (gaps[us]) {
      fprintf(out, "%s[%d,%u]", comma, us, gaps[us]);
      comma = ",";
    }
  long long late = quantile_us(lateness, 0.99);
  fprintf(out, "],\"events\":%lld,\"late_us_p99\":%lld,\"aborted\":%lld,\"unstamped\":%lld}\n",
          (long long)events_sent, late < 0 ? 0 : late, (long long)aborted, (long long)unstamped);
  fclose(out);
  begin_reply(s, "200 OK", "application/x-ndjson", text, len);
  free(text);
  records_len = 0;
  events_sent = aborted = unstamped = 0;
  memset(gaps, 0, sizeof gaps);
  memset(lateness, 0, sizeof lateness);
}

/* -- requests ----------------------------------------------------------------------------- */

static void answer(stream_t *s, int64_t received_ns) {
  static const char models[] =
      "{\"object\":\"list\",\"data\":[{\"id\":\"truth\",\"object\":\"model\","
      "\"created\":1700000000,\"owned_by\":\"loadlib\"}]}";
  static const char unknown[] = "{\"error\":{\"message\":\"no such path\"}}";
  if (!strncmp(s->request, "POST /v1/chat/completions ", 26)) {
    begin_stream(s, received_ns);
    return;
  }
  if (!strncmp(s->request, "GET /truth ", 11)) begin_truth(s);
  else if (!strncmp(s->request, "GET /v1/models ", 15))
    begin_reply(s, "200 OK", "application/json", models, sizeof models - 1);
  else begin_reply(s, "404 Not Found", "application/json", unknown, sizeof unknown - 1);
  push_reply(s);
}

/* Moves `bytes` into the request's head. Returns how many were taken, -1 of a head too long. */
static ssize_t take_head(stream_t *s, const char *bytes, size_t len) {
  size_t room = sizeof s->request - 1 - s->request_len, take = len < room ? len : room;
  size_t before = s->request_len;
  memcpy(s->request + before, bytes, take);
  s->request_len += take;
  s->request[s->request_len] = 0;
  const char *end = strstr(s->request + (before > 3 ? before - 3 : 0), "\r\n\r\n");
  if (!end) return take == len ? (ssize_t)take : -1;
  const char *length = strcasestr(s->request, "\r\ncontent-length:");
  s->body_left = length && length < end ? atoll(length + 17) : 0;
  return end + 4 - (s->request + before);
}

static void serve(stream_t *s) {
  int64_t at;
  ssize_t got = read_stamped(s->fd, batch, BATCH, &offset, &at, &unstamped);
  if (got < 0 && errno == EAGAIN) return;
  if (got <= 0 || s->streaming || s->reply) { /* no client of ours talks during an answer */
    hang_up(s);
    return;
  }
  if (s->record.arrival_ns == NO_TIME) s->record.arrival_ns = at;
  ssize_t used = 0;
  if (s->body_left < 0 && (used = take_head(s, batch, (size_t)got)) < 0) {
    hang_up(s);
    return;
  }
  if (s->body_left < 0) return;
  s->body_left -= got - used;
  if (s->body_left <= 0) answer(s, at);
}

static void accept_all(void) {
  for (;;) {
    int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return; /* nobody, or out of files: the next one that closes makes room */
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    stream_t *s = calloc(1, sizeof *s);
    if (!s) die("memory");
    s->fd = fd;
    s->slot = -1;
    await_request(s);
    struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = s};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &wanted)) die("epoll_ctl");
  }
}

/* -- the loop ----------------------------------------------------------------------------- */

static void set_timer(int64_t due_ns) {
  static int64_t armed = NO_TIME;
  if (due_ns == armed) return;
  armed = due_ns;
  struct itimerspec when = {.it_value = {due_ns / NS_PER_S, due_ns % NS_PER_S}};
  if (timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &when, NULL)) die("timerfd_settime");
}

static void handle(const struct epoll_event *event) {
  if (event->data.ptr == &listen_fd) accept_all();
  else if (event->data.ptr != &timer_fd) {
    stream_t *s = event->data.ptr;
    if ((event->events & EPOLLOUT) && !(s->reply ? push_reply(s) : push(s))) return;
    if (event->events & (EPOLLIN | EPOLLHUP | EPOLLERR)) serve(s);
  }
}

static void run(void) {
  struct epoll_event events[256];
  for (;;) {
    int due = 0;
    for (int i = 0; heap_len && i < 64; i++) { /* then look at the sockets again */
      if (heap[0]->due_ns > now_ns()) break;
      step(heap[0]);
      due = i == 63;
    }
    if (heap_len && !due) set_timer(heap[0]->due_ns);
    int n = epoll_wait(poll_fd, events, 256, due ? 0 : -1);
    if (n < 0 && errno != EINTR) die("epoll_wait");
    for (int i = 0; i < n; i++) handle(&events[i]);
  }
}

static void listen_on(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port)};
  socklen_t len = sizeof address;
  int on = 1;
  if (inet_pton(AF_INET, opt.host, &address.sin_addr) != 1) die("--host");
  listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  setsockopt(listen_fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  ask_for_kernel_time(listen_fd); /* what it accepts inherits this, before the first byte */
  if (bind(listen_fd, (struct sockaddr *)&address, len) || listen(listen_fd, 65535)) die("listen");
  getsockname(listen_fd, (struct sockaddr *)&address, &len);
  poll_fd = epoll_create1(EPOLL_CLOEXEC);
  timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  struct epoll_event connection = {.events = EPOLLIN, .data.ptr = &listen_fd};
  struct epoll_event timer = {.events = EPOLLIN | EPOLLET, .data.ptr = &timer_fd};
  epoll_ctl(poll_fd, EPOLL_CTL_ADD, listen_fd, &connection);
  epoll_ctl(poll_fd, EPOLL_CTL_ADD, timer_fd, &timer);
  printf("{\"port\": %d}\n", ntohs(address.sin_port));
  fflush(stdout);
}

static void read_options(int argc, char **argv) {
  int i = 1;
  for (; i + 1 < argc; i += 2) {
    const char *name = argv[i], *text = argv[i + 1];
    if (!strcmp(name, "--port")) opt.port = atoi(text);
    else if (!strcmp(name, "--host")) opt.host = text;
    else if (!strcmp(name, "--ttft-ms")) opt.ttft_ms = atof(text);
    else if (!strcmp(name, "--gap-ms")) opt.gap_ms = atof(text);
    else if (!strcmp(name, "--tokens")) opt.tokens = atoll(text);
    else if (!strcmp(name, "--spread")) opt.spread = atof(text);
    else break;
  }
  if (i < argc || opt.tokens < 1 || opt.ttft_ms < 0 || opt.gap_ms < 0) {
    fputs("usage: truth_server [--port N] [--host ADDRESS] [--ttft-ms MS] [--gap-ms MS]"
          " [--tokens N] [--spread SHARE]\n", stderr);
    exit(2);
  }
  opt.ttft_ns = (int64_t)(opt.ttft_ms * 1e6);
  opt.gap_ns = (int64_t)(opt.gap_ms * 1e6);
}

static void on_term(int signal) {
  (void)signal;
  _exit(0);
}

int main(int argc, char **argv) {
  read_options(argc, argv);
  prctl(PR_SET_PDEATHSIG, SIGTERM); /* nobody would fetch the truth any more */
  signal(SIGTERM, on_term);
  signal(SIGINT, on_term);
  raise_file_limit();
  listen_on();
  run();
}
