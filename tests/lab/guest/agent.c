/*
 * The only program of a lab guest (besides busybox, which sets the guest up and then becomes this).
 *
 * It lets a test see the guest from outside and make it as hard to migrate as the test needs:
 *   - a heartbeat over UDP every `lab_beat_ms`, with a boot id, a sequence number, and the guest's clock;
 *   - a working set that is dirtied at a set rate, and a share of the vCPU that is burnt;
 *   - a tick a second on the serial line, for when the network is what failed;
 *   - a block of /dev/vda written and read back once a second, if there is a disk;
 *   - power off on the ACPI power button.
 *
 * Settings come from the kernel's command line, which hands `name=value` to init as environment.
 * Commands over UDP, each answered with `ok ...` or `error ...`:
 *   dirty BYTES_PER_SECOND | cpu PERMILLE | status | off
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/input.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES 4096
#define BLOCK_BYTES 4096
#define NS_PER_MS INT64_C(1000000)
#define NS_PER_S INT64_C(1000000000)
/* Short enough for smooth dirtying, long enough to cost an emulated CPU little. */
#define BUSY_SLICE_NS (10 * NS_PER_MS)
#define MAX_INPUTS 4

static const char *guest_name;
static uint64_t boot_id;

static int64_t now_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * NS_PER_S + t.tv_nsec;
}

static int64_t setting(const char *name, int64_t otherwise)
{
    const char *value = getenv(name);
    return value ? strtoll(value, NULL, 10) : otherwise;
}

static uint64_t next_random(uint64_t *state) /* xorshift64 */
{
    uint64_t x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

/* The kernel may have little entropy this early, so the real-time clock is mixed in: two boots differ. */
static uint64_t random_boot_id(void)
{
    uint64_t seed = 0;
    int fd = open("/dev/urandom", O_RDONLY);
    if (fd >= 0) {
        if (read(fd, &seed, sizeof seed) < 0)
            seed = 0;
        close(fd);
    }
    seed ^= (uint64_t)now_ns(CLOCK_REALTIME) ^ ((uint64_t)now_ns(CLOCK_MONOTONIC) << 20);
    seed |= 1; /* xorshift is stuck at zero */
    for (int i = 0; i < 16; i++)
        next_random(&seed);
    return seed;
}

/* ---- the working set -------------------------------------------------------------------------- */

struct working_set {
    uint8_t *memory;
    uint64_t pages, next_page;
    uint64_t pages_per_second;
    uint64_t dirtied;        /* since boot */
    int64_t since_ns;        /* when the current rate was set … */
    uint64_t dirtied_since;  /* … and how many pages were due and done since */
};

/* Filled with noise: zero pages are not sent, and constant ones compress to nothing. */
static struct working_set make_working_set(uint64_t bytes)
{
    struct working_set set = {.pages = bytes / PAGE_BYTES};
    if (set.pages == 0)
        return set;
    set.memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (set.memory == MAP_FAILED) {
        perror("working set");
        exit(1);
    }
    uint64_t noise = boot_id;
    for (uint64_t i = 0; i < bytes / sizeof noise; i++)
        ((uint64_t *)set.memory)[i] = next_random(&noise);
    return set;
}

static void set_dirty_rate(struct working_set *set, uint64_t bytes_per_second)
{
    set->pages_per_second = bytes_per_second / PAGE_BYTES;
    set->since_ns = now_ns(CLOCK_MONOTONIC);
    set->dirtied_since = 0;
}

/* On an absolute schedule, so that late wake-ups do not lower the rate. */
static void dirty_due_pages(struct working_set *set)
{
    if (set->pages == 0 || set->pages_per_second == 0)
        return;
    int64_t elapsed_ns = now_ns(CLOCK_MONOTONIC) - set->since_ns;
    uint64_t due = (uint64_t)((double)elapsed_ns / NS_PER_S * (double)set->pages_per_second);
    /* More than a second behind (a starved host): forget it rather than make up for it in one burst. */
    if (due > set->dirtied_since + set->pages_per_second) {
        set_dirty_rate(set, set->pages_per_second * PAGE_BYTES);
        return;
    }
    for (; set->dirtied_since < due; set->dirtied_since++) {
        (*(uint64_t *)(set->memory + set->next_page * PAGE_BYTES))++;
        set->next_page = (set->next_page + 1) % set->pages;
        set->dirtied++;
    }
}

static void burn_until(int64_t deadline_ns)
{
    volatile uint64_t sink = 0;
    while (now_ns(CLOCK_MONOTONIC) < deadline_ns)
        for (int i = 0; i < 2000; i++)
            sink += (uint64_t)i;
}

/* ---- the disk --------------------------------------------------------------------------------- */

struct disk {
    int fd; /* -1: diskless */
    uint8_t *block;
    uint64_t generation, mismatches;
};

static struct disk open_disk(void)
{
    struct disk disk = {.fd = open("/dev/vda", O_RDWR | O_DIRECT)};
    if (disk.fd >= 0 && posix_memalign((void **)&disk.block, BLOCK_BYTES, BLOCK_BYTES) != 0)
        disk.fd = -1;
    return disk;
}

static bool block_holds(const struct disk *disk)
{
    uint64_t stored[2];
    memcpy(stored, disk->block, sizeof stored);
    return stored[0] == boot_id && stored[1] == disk->generation;
}

/* What was written a second ago must still be there: a second writer or a lost write is a mismatch. */
static void exercise_disk(struct disk *disk)
{
    if (disk->fd < 0)
        return;
    if (disk->generation > 0 &&
        (pread(disk->fd, disk->block, BLOCK_BYTES, 0) != BLOCK_BYTES || !block_holds(disk)))
        disk->mismatches++;
    disk->generation++;
    uint64_t fresh[2] = {boot_id, disk->generation};
    memset(disk->block, 0, BLOCK_BYTES);
    memcpy(disk->block, fresh, sizeof fresh);
    if (pwrite(disk->fd, disk->block, BLOCK_BYTES, 0) != BLOCK_BYTES)
        disk->mismatches++;
}

/* ---- commands and the power button ------------------------------------------------------------ */

static void power_off(void)
{
    printf("agent: power off\n");
    sync();
    reboot(RB_POWER_OFF);
}

struct load {
    struct working_set set;
    int64_t cpu_permille;
};

static void obey(int command_socket, struct load *load, uint64_t sequence)
{
    char text[128], answer[192];
    struct sockaddr_in from;
    socklen_t from_length = sizeof from;
    ssize_t length = recvfrom(command_socket, text, sizeof text - 1, MSG_DONTWAIT,
                              (struct sockaddr *)&from, &from_length);
    if (length < 0)
        return;
    text[length] = '\0';
    uint64_t number;
    bool off = false;
    if (sscanf(text, "dirty %" SCNu64, &number) == 1) {
        set_dirty_rate(&load->set, number);
        snprintf(answer, sizeof answer, "ok %s", text);
    } else if (sscanf(text, "cpu %" SCNu64, &number) == 1 && number <= 1000) {
        load->cpu_permille = (int64_t)number;
        snprintf(answer, sizeof answer, "ok %s", text);
    } else if (strcmp(text, "status") == 0) {
        snprintf(answer, sizeof answer, "ok %s %016" PRIx64 " %" PRIu64 " %" PRIu64, guest_name, boot_id,
                 sequence, load->set.dirtied);
    } else if (strcmp(text, "off") == 0) {
        off = true;
        snprintf(answer, sizeof answer, "ok off");
    } else {
        snprintf(answer, sizeof answer, "error unknown command: %s", text);
    }
    sendto(command_socket, answer, strlen(answer), 0, (struct sockaddr *)&from, from_length);
    if (off)
        power_off();
}

static bool power_button_pressed(int input)
{
    struct input_event event;
    bool pressed = false;
    while (read(input, &event, sizeof event) == (ssize_t)sizeof event)
        pressed |= event.type == EV_KEY && event.code == KEY_POWER && event.value == 1;
    return pressed;
}

/* ---- the loop --------------------------------------------------------------------------------- */

static int udp_socket(uint16_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        perror("command socket");
        exit(1);
    }
    return fd;
}

static struct sockaddr_in collector_address(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    const char *text = getenv("lab_collector");
    address.sin_port = htons((uint16_t)setting("lab_collector_port", 7800));
    if (!text || inet_pton(AF_INET, text, &address.sin_addr) != 1) {
        fprintf(stderr, "agent: lab_collector is not an IPv4 address\n");
        exit(1);
    }
    return address;
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    guest_name = getenv("lab_name") ? getenv("lab_name") : "guest";
    boot_id = random_boot_id();

    struct load load = {.set = make_working_set((uint64_t)setting("lab_working_set_bytes", 0)),
                        .cpu_permille = setting("lab_cpu_permille", 0)};
    set_dirty_rate(&load.set, (uint64_t)setting("lab_dirty_bytes_per_second", 0));
    struct disk disk = open_disk();
    const struct sockaddr_in collector = collector_address();
    const int64_t beat_ns = setting("lab_beat_ms", 50) * NS_PER_MS;

    struct pollfd inputs[1 + MAX_INPUTS] = {
        {.fd = udp_socket((uint16_t)setting("lab_command_port", 7801)), .events = POLLIN}};
    for (int i = 0; i < MAX_INPUTS; i++) {
        char path[32];
        snprintf(path, sizeof path, "/dev/input/event%d", i);
        inputs[1 + i] = (struct pollfd){.fd = open(path, O_RDONLY | O_NONBLOCK), .events = POLLIN};
    }

    uint64_t sequence = 0, ticks = 0;
    int64_t next_beat = now_ns(CLOCK_MONOTONIC), next_tick = next_beat;
    for (;;) {
        int64_t slice_start = now_ns(CLOCK_MONOTONIC);
        dirty_due_pages(&load.set);
        if (slice_start >= next_beat) {
            char beat[160];
            int length = snprintf(beat, sizeof beat,
                                  "beat %s %016" PRIx64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRId64, guest_name,
                                  boot_id, sequence++, load.set.dirtied, disk.mismatches,
                                  now_ns(CLOCK_MONOTONIC) / NS_PER_MS);
            sendto(inputs[0].fd, beat, (size_t)length, 0, (const struct sockaddr *)&collector, sizeof collector);
            next_beat += beat_ns;
            if (next_beat < slice_start) /* late: skip beats instead of sending a burst */
                next_beat = slice_start + beat_ns;
        }
        if (slice_start >= next_tick) {
            exercise_disk(&disk);
            printf("tick %" PRIu64 " %016" PRIx64 " beat %" PRIu64 " pages %" PRIu64 " mismatches %" PRIu64 "\n",
                   ticks++, boot_id, sequence, load.set.dirtied, disk.mismatches);
            next_tick = slice_start + NS_PER_S;
        }

        bool busy = load.cpu_permille > 0 || load.set.pages_per_second > 0;
        int64_t slice_end = busy ? slice_start + BUSY_SLICE_NS : next_beat;
        if (slice_end > next_beat)
            slice_end = next_beat;
        burn_until(slice_start + (slice_end - slice_start) * load.cpu_permille / 1000);
        int64_t rest_ns = slice_end - now_ns(CLOCK_MONOTONIC);
        struct timespec rest = {.tv_nsec = rest_ns > 0 ? rest_ns % NS_PER_S : 0};
        if (ppoll(inputs, 1 + MAX_INPUTS, &rest, NULL) <= 0)
            continue;
        if (inputs[0].revents & POLLIN)
            obey(inputs[0].fd, &load, sequence);
        for (int i = 1; i <= MAX_INPUTS; i++)
            if ((inputs[i].revents & POLLIN) && power_button_pressed(inputs[i].fd))
                power_off();
    }
}
