/*
 * references: what the kernel allows, in C.
 *
 *   references epoll PORT     one thread, one epoll set
 *   references threads PORT   a thread per client
 *
 * Both echo with TCP_NODELAY and a 256 KiB buffer.  On SIGTERM the epoll server
 * stops accepting, sends SHUTDOWN to every client and exits when all have left;
 * the threaded one sends SHUTDOWN from its main thread and exits likewise.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUFFER (1u << 18)
#define EVENTS 256
#define FILES 20000

static const char word[] = "SHUTDOWN";

static void must(bool ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static int listen_on(const char *port, int flags)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)atoi(port)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | flags, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* accepted sockets inherit it */
    must(bind(fd, (struct sockaddr *)&address, sizeof address) == 0, "bind");
    must(listen(fd, 4096) == 0, "listen");
    return fd;
}

/* ---- one thread ---- */

static struct client {
    bool there;
    char *pending; /* what the client has not taken yet */
    size_t from, size;
} clients[FILES];
static unsigned present;
static char buffer[BUFFER];

static void want(int epoll, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event);
}

static void drop(int fd)
{
    free(clients[fd].pending);
    clients[fd] = (struct client){0};
    close(fd);
    present--;
}

/* Send, and keep what does not fit: the client is not read again until it went. */
static void give(int epoll, int fd, const char *data, size_t size)
{
    ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
    if (sent == (ssize_t)size)
        return;
    if (sent < 0 && errno != EAGAIN) {
        drop(fd);
        return;
    }
    struct client *c = clients + fd;
    c->from = 0;
    c->size = size - (size_t)(sent > 0 ? sent : 0);
    c->pending = malloc(c->size);
    must(c->pending != NULL, "malloc");
    memcpy(c->pending, data + size - c->size, c->size);
    want(epoll, fd, EPOLLOUT);
}

static void flush(int epoll, int fd)
{
    struct client *c = clients + fd;
    ssize_t sent = send(fd, c->pending + c->from, c->size - c->from, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN)
            drop(fd);
        return;
    }
    c->from += (size_t)sent;
    if (c->from == c->size) {
        free(c->pending);
        c->pending = NULL;
        want(epoll, fd, EPOLLIN);
    }
}

static void echo(int epoll, int fd)
{
    ssize_t got = recv(fd, buffer, sizeof buffer, 0);
    if (got > 0)
        give(epoll, fd, buffer, (size_t)got);
    else if (got == 0 || errno != EAGAIN)
        drop(fd);
}

static void serve_with_epoll(const char *port)
{
    sigset_t stop;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    sigprocmask(SIG_BLOCK, &stop, NULL);
    int signals = signalfd(-1, &stop, SFD_NONBLOCK);
    int listener = listen_on(port, SOCK_NONBLOCK);
    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    event.data.fd = signals;
    epoll_ctl(epoll, EPOLL_CTL_ADD, signals, &event);
    bool draining = false;
    while (!draining || present > 0) {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                int new = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (new < 0)
                    continue;
                must(new < FILES, "too many clients");
                clients[new].there = true;
                present++;
                event.data.fd = new;
                epoll_ctl(epoll, EPOLL_CTL_ADD, new, &event);
            } else if (fd == signals) {
                draining = true;
                close(signals);
                close(listener);
                listener = signals = -1;
                for (int c = 0; c < FILES; c++)
                    if (clients[c].there && !clients[c].pending)
                        give(epoll, c, word, sizeof word - 1);
            } else if (clients[fd].there) {
                if (clients[fd].pending)
                    flush(epoll, fd);
                else
                    echo(epoll, fd);
            }
        }
    }
}

/* ---- a thread per client ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t left = PTHREAD_COND_INITIALIZER;

static void *serve_client(void *argument)
{
    int fd = (int)(intptr_t)argument;
    char *data = malloc(BUFFER); /* untouched pages cost nothing */
    ssize_t got;
    while (data && (got = recv(fd, data, BUFFER, 0)) > 0) {
        ssize_t at = 0, sent = 0;
        while (at < got && (sent = send(fd, data + at, (size_t)(got - at), MSG_NOSIGNAL)) > 0)
            at += sent;
        if (sent <= 0)
            break;
    }
    free(data);
    pthread_mutex_lock(&lock);
    clients[fd].there = false;
    close(fd);
    present--;
    pthread_cond_signal(&left);
    pthread_mutex_unlock(&lock);
    return NULL;
}

static _Noreturn void *accept_clients(void *argument)
{
    int listener = (int)(intptr_t)argument;
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0)
            continue;
        must(fd < FILES, "too many clients");
        pthread_mutex_lock(&lock);
        clients[fd].there = true;
        present++;
        pthread_mutex_unlock(&lock);
        pthread_t thread;
        must(pthread_create(&thread, NULL, serve_client, (void *)(intptr_t)fd) == 0, "thread");
        pthread_detach(thread);
    }
}

static void serve_with_threads(const char *port)
{
    sigset_t stop;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    sigprocmask(SIG_BLOCK, &stop, NULL);
    pthread_t thread;
    int listener = listen_on(port, 0), signal;
    must(pthread_create(&thread, NULL, accept_clients, (void *)(intptr_t)listener) == 0, "thread");
    sigwait(&stop, &signal);
    pthread_mutex_lock(&lock);
    for (int fd = 0; fd < FILES; fd++)
        if (clients[fd].there)
            send(fd, word, sizeof word - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (present > 0)
        pthread_cond_wait(&left, &lock);
    exit(0);
}

int main(int argc, char **argv)
{
    struct rlimit files = {FILES, FILES};
    setrlimit(RLIMIT_NOFILE, &files);
    if (argc == 3 && strcmp(argv[1], "epoll") == 0)
        serve_with_epoll(argv[2]);
    else if (argc == 3 && strcmp(argv[1], "threads") == 0)
        serve_with_threads(argv[2]);
    else
        fputs("usage: references epoll|threads PORT\n", stderr);
    return argc != 3;
}
