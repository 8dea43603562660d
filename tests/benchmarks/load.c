/*
 * load: the load generator of `make bench`.
 *
 * One thread, one epoll set, one JSON line on stdout.  It only ever connects
 * to 127.0.0.1, and its clients come from 127.0.0.2 to 127.0.0.201 in turn, so
 * that neither the ports of one address nor a server's limit per host end a
 * run.  Clients connect one after the other and each is echoed once before the
 * next: a short listen backlog costs nobody anything, and a client that counts
 * has certainly been accepted.
 *
 * Every echoed byte is compared with what was sent.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MESSAGE 64              /* bytes of one ping */
#define SOURCES 200             /* loopback addresses the clients come from */
#define EVENTS 512
#define FILES 20000             /* descriptors that a server may open */
#define WARM_UP 200000000ull    /* ns of ping-pong or bulk that do not count */
#define GIVE_UP 10000000000ull  /* ns without any progress */
#define BULK_PATTERN (1u << 18) /* bytes until the bulk data repeats */
#define BULK_WINDOW (1u << 22)  /* bytes a bulk client may have on the way */
#define RETRY 100000l           /* ns between attempts to connect to a server that starts */

struct client {
    int fd;
    bool connecting;
    unsigned number;
    uint64_t sent, received; /* messages, or bytes in bulk */
    uint64_t at;             /* when the ping left, or the farewell came */
};

static struct sockaddr_in server = {.sin_family = AF_INET};
static unsigned char buffer[1u << 18];

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static unsigned number(const char *text, unsigned low, unsigned high)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (end == text || *end != '\0' || value < low || value > high)
        fail("%s: expected a number from %u to %u", text, low, high);
    return (unsigned)value;
}

static uint64_t seconds(const char *text)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value > 0 && value <= 600))
        fail("%s: expected seconds, at most 600", text);
    return (uint64_t)(value * 1e9);
}

/* ---- latencies: a histogram of 32 steps to each power of two (3 % wide) ---- */

#define STEP_BITS 5
static uint64_t histogram[64 << STEP_BITS], samples;

static void record(uint64_t ns)
{
    unsigned shift = 0;
    while (ns >> shift >= 2u << STEP_BITS)
        shift++;
    histogram[(shift << STEP_BITS) + (ns >> shift)]++;
    samples++;
}

static double quantile_us(double q)
{
    uint64_t wanted = (uint64_t)((double)samples * q), seen = 0;
    for (unsigned i = 0; i < sizeof histogram / sizeof *histogram; i++) {
        seen += histogram[i];
        if (seen > wanted) {
            unsigned shift = i >> STEP_BITS ? (i >> STEP_BITS) - 1 : 0;
            return ((double)((uint64_t)i - ((uint64_t)shift << STEP_BITS)) + 0.5) *
                   (double)(1ull << shift) / 1e3;
        }
    }
    return 0;
}

/* ---- clients ---- */

static void allow_files(rlim_t count)
{
    struct rlimit present;
    getrlimit(RLIMIT_NOFILE, &present);
    if (present.rlim_cur < count) {
        present.rlim_cur = count;
        if (present.rlim_max < count)
            present.rlim_max = count;
        if (setrlimit(RLIMIT_NOFILE, &present) < 0)
            fail("%lu open files are not allowed here", (unsigned long)count);
    }
}

static void ping(struct client *c)
{
    unsigned char message[MESSAGE] = {0};
    c->sent++;
    memcpy(message, &c->number, sizeof c->number);
    memcpy(message + MESSAGE - sizeof c->sent, &c->sent, sizeof c->sent);
    c->at = now();
    if (send(c->fd, message, sizeof message, MSG_NOSIGNAL) != MESSAGE)
        fail("client %u could not send: %s", c->number, strerror(errno));
}

static void verify(const struct client *c, const unsigned char *got)
{
    uint64_t sent;
    unsigned who;
    memcpy(&who, got, sizeof who);
    memcpy(&sent, got + MESSAGE - sizeof sent, sizeof sent);
    if (who != c->number || sent != c->sent)
        fail("client %u got back bytes it did not send", c->number);
}

/* Take what is there, true when that makes a whole message. */
static bool pong(struct client *c, unsigned char *got, size_t *have)
{
    ssize_t n = recv(c->fd, got + *have, MESSAGE - *have, 0);
    if (n <= 0)
        fail("client %u lost its connection: %s", c->number, n ? strerror(errno) : "EOF");
    *have += (size_t)n;
    if (*have < MESSAGE)
        return false;
    verify(c, got);
    *have = 0;
    c->received++;
    return true;
}

static int new_socket(unsigned i, int flags)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    if (fd < 0)
        fail("socket %u: %s", i, strerror(errno));
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    struct sockaddr_in source = {.sin_family = AF_INET,
                                 .sin_addr.s_addr = htonl(0x7f000002u + i % SOURCES)};
    if (bind(fd, (struct sockaddr *)&source, sizeof source) < 0)
        fail("bind %u: %s", i, strerror(errno));
    return fd;
}

static int open_clients(struct client **clients, unsigned count)
{
    allow_files(count + 64);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    *clients = calloc(count, sizeof **clients);
    if (epoll < 0 || !*clients)
        fail("out of memory");
    for (unsigned i = 0; i < count; i++) {
        struct client *c = *clients + i;
        unsigned char got[MESSAGE];
        size_t have = 0;
        c->number = i;
        c->fd = new_socket(i, 0);
        struct timeval patience = {.tv_sec = GIVE_UP / 1000000000u};
        setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        if (connect(c->fd, (struct sockaddr *)&server, sizeof server) < 0)
            fail("client %u could not connect: %s", i, strerror(errno));
        ping(c);
        while (!pong(c, got, &have))
            ;
        fcntl(c->fd, F_SETFL, O_NONBLOCK);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event);
    }
    return epoll;
}

static int wait_for(int epoll, struct epoll_event *events)
{
    int n;
    do
        n = epoll_wait(epoll, events, EVENTS, (int)(GIVE_UP / 1000000u));
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        fail("nothing came back for %d s", (int)(GIVE_UP / 1000000000u));
    return n;
}

/* ---- the sub-commands ---- */

/* What all threads of a process have used, also those that ended. */
static uint64_t cpu_time(pid_t process)
{
    clockid_t clock;
    struct timespec t;
    if (clock_getcpuclockid(process, &clock) != 0 || clock_gettime(clock, &t) != 0)
        fail("the server has gone");
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void ping_pong(unsigned count, uint64_t duration, pid_t process)
{
    struct client *clients;
    int epoll = open_clients(&clients, count);
    unsigned char(*got)[MESSAGE] = calloc(count, sizeof *got);
    size_t *have = calloc(count, sizeof *have);
    if (!got || !have)
        fail("out of memory");
    uint64_t start = now() + WARM_UP, t = 0, used = 0;
    for (unsigned i = 0; i < count; i++)
        ping(clients + i);
    while (t < start + duration) {
        struct epoll_event events[EVENTS];
        int n = wait_for(epoll, events);
        for (int i = 0; i < n; i++) {
            struct client *c = events[i].data.ptr;
            if (!pong(c, got[c->number], have + c->number))
                continue;
            t = now();
            if (t >= start) {
                if (samples == 0)
                    used = cpu_time(process);
                record(t - c->at);
            }
            ping(c);
        }
    }
    used = cpu_time(process) - used;
    printf("{\"round_trips\": %" PRIu64 ", \"per_second\": %.1f, \"server_cpu_us\": %.3f, "
           "\"p50_us\": %.2f, \"p99_us\": %.2f, \"p999_us\": %.2f}\n",
           samples, (double)samples / ((double)(t - start) / 1e9),
           (double)used / 1e3 / (double)samples, quantile_us(.5), quantile_us(.99),
           quantile_us(.999));
}

static void bulk(unsigned count, uint64_t duration)
{
    struct client *clients;
    int epoll = open_clients(&clients, count);
    unsigned char *pattern = malloc(2 * BULK_PATTERN);
    if (!pattern)
        fail("out of memory");
    for (unsigned i = 0, x = 1; i < BULK_PATTERN; i++) {
        x = x * 1103515245u + 12345u;
        pattern[i] = pattern[i + BULK_PATTERN] = (unsigned char)(x >> 16);
    }
    for (unsigned i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = clients + i};
        clients[i].sent = clients[i].received = 0;
        epoll_ctl(epoll, EPOLL_CTL_MOD, clients[i].fd, &event);
    }
    uint64_t start = now() + WARM_UP, end = 0, before = 0, total = 0, counted = 0;
    bool stopping = false;
    unsigned done = 0;
    while (done < count) {
        struct epoll_event events[EVENTS];
        int n = wait_for(epoll, events);
        uint64_t t = now();
        if (t < start)
            before = total;
        if (!stopping && t >= start + duration) {
            stopping = true;
            end = t;
            counted = total - before;
            for (unsigned i = 0; i < count; i++) {
                struct epoll_event event = {.events = EPOLLIN, .data.ptr = clients + i};
                epoll_ctl(epoll, EPOLL_CTL_MOD, clients[i].fd, &event);
                done += clients[i].sent == clients[i].received;
            }
        }
        for (int i = 0; i < n; i++) {
            struct client *c = events[i].data.ptr;
            if (events[i].events & EPOLLIN) {
                ssize_t got = recv(c->fd, buffer, sizeof buffer, 0);
                if (got == 0 || (got < 0 && errno != EAGAIN))
                    fail("client %u lost its connection", c->number);
                if (got > 0) {
                    if (memcmp(buffer, pattern + c->received % BULK_PATTERN, (size_t)got) != 0)
                        fail("client %u got back bytes it did not send", c->number);
                    c->received += (uint64_t)got;
                    total += (uint64_t)got;
                    done += stopping && c->sent == c->received;
                }
            }
            if (!stopping && events[i].events & EPOLLOUT &&
                c->sent - c->received < BULK_WINDOW) {
                ssize_t put = send(c->fd, pattern + c->sent % BULK_PATTERN, BULK_PATTERN,
                                   MSG_NOSIGNAL);
                if (put < 0 && errno != EAGAIN)
                    fail("client %u could not send: %s", c->number, strerror(errno));
                c->sent += put > 0 ? (uint64_t)put : 0;
            }
        }
    }
    double elapsed = (double)(end - start) / 1e9;
    printf("{\"bytes\": %" PRIu64 ", \"seconds\": %.6f, \"bytes_per_second\": %.0f}\n", counted,
           elapsed, (double)counted / elapsed);
}

static void churn_connect(int epoll, struct client *c)
{
    c->fd = new_socket(c->number, SOCK_NONBLOCK);
    c->number += 7; /* another source address next time */
    c->connecting = true;
    if (connect(c->fd, (struct sockaddr *)&server, sizeof server) < 0 && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event);
}

static void churn(unsigned concurrency, unsigned count)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct client *clients = calloc(concurrency, sizeof *clients);
    unsigned char(*got)[MESSAGE] = calloc(concurrency, sizeof *got);
    size_t *have = calloc(concurrency, sizeof *have);
    if (epoll < 0 || !clients || !got || !have)
        fail("out of memory");
    uint64_t start = now();
    unsigned begun = 0, ended = 0;
    for (; begun < concurrency; begun++) {
        clients[begun].number = begun;
        churn_connect(epoll, clients + begun);
    }
    while (ended < count) {
        struct epoll_event events[EVENTS];
        int n = wait_for(epoll, events);
        for (int i = 0; i < n; i++) {
            struct client *c = events[i].data.ptr;
            size_t slot = (size_t)(c - clients);
            if (c->connecting) {
                int error = 0;
                socklen_t size = sizeof error;
                getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
                if (error)
                    fail("connect: %s", strerror(error));
                c->connecting = false;
                ping(c);
                struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
                epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
            } else if (pong(c, got[slot], have + slot)) {
                record(now() - c->at);
                close(c->fd);
                ended++;
                if (begun < count) {
                    begun++;
                    churn_connect(epoll, c);
                }
            }
        }
    }
    double elapsed = (double)(now() - start) / 1e9;
    printf("{\"connections\": %u, \"seconds\": %.6f, \"per_second\": %.1f, \"p50_us\": %.2f, "
           "\"p99_us\": %.2f}\n",
           count, elapsed, count / elapsed, quantile_us(.5), quantile_us(.99));
}

/* Idle clients: say when they are there, stay until stdin ends. */
static void hold(unsigned count)
{
    struct client *clients;
    open_clients(&clients, count);
    printf("{\"ready\": %u}\n", count);
    fflush(stdout);
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
}

static int by_time(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Idle clients that wait for the farewell, and close at once when it comes. */
static void farewell(unsigned count, uint64_t patience)
{
    static const char word[] = "SHUTDOWN";
    struct client *clients;
    int epoll = open_clients(&clients, count);
    uint64_t *at = calloc(count, sizeof *at);
    if (!at)
        fail("out of memory");
    printf("{\"ready\": %u}\n", count);
    fflush(stdout);
    uint64_t end = now() + patience;
    unsigned told = 0, untold = 0;
    while (told + untold < count && now() < end) {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(epoll, events, EVENTS, 100);
        for (int i = 0; i < n; i++) {
            struct client *c = events[i].data.ptr;
            ssize_t got = recv(c->fd, buffer, sizeof buffer, 0);
            if (got < 0 && errno == EAGAIN)
                continue;
            if (got == (ssize_t)sizeof word - 1 && memcmp(buffer, word, (size_t)got) == 0)
                at[told++] = now();
            else
                untold++;
            close(c->fd);
        }
    }
    qsort(at, told, sizeof *at, by_time);
    printf("{\"told\": %u, \"untold\": %u, \"first_ns\": %" PRIu64 ", \"median_ns\": %" PRIu64
           ", \"last_ns\": %" PRIu64 "}\n",
           told, count - told, told ? at[0] : 0, told ? at[told / 2] : 0, told ? at[told - 1] : 0);
}

/* Become a server: on its processor, with room for many clients, gone when we are. */
static void become(const char *cpu, char **argv)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (strcmp(cpu, "any") != 0) {
        CPU_SET(number(cpu, 0, CPU_SETSIZE - 1), &set);
        sched_setaffinity(0, sizeof set, &set);
    }
    allow_files(FILES);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execvp(argv[0], argv);
    fail("%s: %s", argv[0], strerror(errno));
}

static void first_echo(const char *cpu, char **argv)
{
    uint64_t start = now();
    pid_t child = fork();
    if (child < 0)
        fail("fork: %s", strerror(errno));
    if (child == 0) {
        int null = open("/dev/null", O_RDWR);
        dup2(null, STDIN_FILENO);
        dup2(null, STDOUT_FILENO);
        dup2(null, STDERR_FILENO);
        setpgid(0, 0);
        become(cpu, argv);
    }
    struct client c = {.fd = -1};
    bool echoed = false;
    while (!echoed && now() - start < GIVE_UP && waitpid(child, NULL, WNOHANG) == 0) {
        unsigned char got[MESSAGE];
        c.fd = new_socket(0, 0);
        c.sent = 0;
        if (connect(c.fd, (struct sockaddr *)&server, sizeof server) == 0) {
            ping(&c);
            echoed = recv(c.fd, got, sizeof got, MSG_WAITALL) == MESSAGE;
        }
        close(c.fd);
        if (echoed) {
            verify(&c, got);
        } else {
            struct timespec pause = {.tv_nsec = RETRY};
            nanosleep(&pause, NULL);
        }
    }
    uint64_t end = now();
    kill(-child, SIGKILL);
    waitpid(child, NULL, 0);
    if (!echoed)
        fail("%s did not start", argv[0]);
    printf("{\"first_echo_ms\": %.3f}\n", (double)(end - start) / 1e6);
}

int main(int argc, char **argv)
{
    const char *command = argc > 1 ? argv[1] : "";
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (argc > 3 && strcmp(command, "become") == 0) {
        signal(SIGPIPE, SIG_DFL);
        become(argv[2], argv + 3);
    }
    if (argc > 2)
        server.sin_port = htons((uint16_t)number(argv[2], 1, 65535));
    if (argc == 6 && strcmp(command, "ping-pong") == 0)
        ping_pong(number(argv[3], 1, 20000), seconds(argv[4]),
                  (pid_t)number(argv[5], 1, 1u << 30));
    else if (argc == 5 && strcmp(command, "bulk") == 0)
        bulk(number(argv[3], 1, 1000), seconds(argv[4]));
    else if (argc == 5 && strcmp(command, "churn") == 0)
        churn(number(argv[3], 1, 256), number(argv[4], 1, 1000000));
    else if (argc == 4 && strcmp(command, "hold") == 0)
        hold(number(argv[3], 1, 20000));
    else if (argc == 5 && strcmp(command, "farewell") == 0)
        farewell(number(argv[3], 1, 20000), seconds(argv[4]));
    else if (argc > 4 && strcmp(command, "first-echo") == 0)
        first_echo(argv[3], argv + 4);
    else
        fail("usage: load ping-pong PORT CLIENTS SECONDS PID | bulk PORT CLIENTS SECONDS |\n"
             "       churn PORT CONCURRENCY COUNT | hold PORT CLIENTS |\n"
             "       farewell PORT CLIENTS PATIENCE | first-echo PORT CPU COMMAND... |\n"
             "       become CPU COMMAND...");
    return 0;
}
