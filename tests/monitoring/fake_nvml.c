/* A stand-in for libnvidia-ml.so.1, for machines without a GPU.
 *
 *     cc -shared -fPIC -O1 -pthread -o DIR/libnvidia-ml.so.1 fake_nvml.c     and then     LD_LIBRARY_PATH=DIR
 *
 * Eight GPUs that are well, unless the file named by FAKE_NVML says otherwise. It is read again whenever it changes, so a
 * test writes it (atomically: a new file renamed onto it) to make something happen. One order per line:
 *
 *     count N              N GPUs                        init CODE        nvmlInit fails with CODE
 *     temperature GPU C    degrees                       throttle GPU M   clock event reasons, a mask
 *     lost GPU             falls off the bus: lost from now on, until NVML is shut down and initialised without this line
 *     away GPU             is not listed by nvmlDeviceGetCount and ByIndex (the others move up)
 *     hang GPU             calls for it do not return while this line is there; "hang init": nvmlInit
 *     mig GPU N            is divided into N MIG devices
 *     draw GPU W           its energy counter grows by W watts from now on (else it stands still)
 *     xid GPU CODE         an event; each such line is delivered once, in order
 *     return FUNCTION CODE every call of FUNCTION gives CODE (3: not supported, 999: unknown error)
 *
 * -DOLD_DRIVER leaves out functions that drivers before 535 lack. Signatures are those of NVIDIA's nvml.h.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef int ret_t;
typedef unsigned long long u64;
enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, TIMEOUT = 10, LOST = 15 };
#define MAX 16
#define MAX_RULES 64

typedef struct { int gpu, mig; } device; /* mig: -1 for the whole GPU */
typedef struct { u64 total, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } rates_t;
typedef struct { unsigned pid; u64 used; unsigned gi, ci; } process_t;
typedef struct { device *dev; u64 type, data; unsigned gi, ci; } event_t;
typedef struct {
    unsigned field, scope;
    long long timestamp, latency;
    unsigned type;
    ret_t ret;
    union { double d; unsigned ui; u64 ull; } value;
} field_t;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct stat seen;
static int initialised, latched[MAX], delivered;
static device whole[MAX], part[MAX][MAX];
static struct {
    int count, init, hang_init, temperature[MAX], lost[MAX], away[MAX], hang[MAX], mig[MAX], rules, xids;
    unsigned throttle[MAX], draw[MAX];
    struct { char function[64]; int code; } rule[MAX_RULES];
    struct { int gpu, code; } xid[MAX_RULES];
} now;

static void read_orders(const char *path) {
    char line[256], word[64];
    int a, b;
    FILE *file = fopen(path, "r");
    memset(&now, 0, sizeof now);
    now.count = 8;
    for (int i = 0; i < MAX; i++) now.temperature[i] = 50 + i;
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "return %63s %d", word, &a) == 2 && now.rules < MAX_RULES) {
            strcpy(now.rule[now.rules].function, word);
            now.rule[now.rules++].code = a;
        } else if (!strncmp(line, "hang init", 9)) now.hang_init = 1;
        else if (sscanf(line, "count %d", &a) == 1) now.count = a;
        else if (sscanf(line, "init %d", &a) == 1) now.init = a;
        else if (sscanf(line, "temperature %d %d", &a, &b) == 2) now.temperature[a] = b;
        else if (sscanf(line, "throttle %d %i", &a, &b) == 2) now.throttle[a] = (unsigned)b;
        else if (sscanf(line, "lost %d", &a) == 1) now.lost[a] = 1;
        else if (sscanf(line, "away %d", &a) == 1) now.away[a] = 1;
        else if (sscanf(line, "hang %d", &a) == 1) now.hang[a] = 1;
        else if (sscanf(line, "mig %d %d", &a, &b) == 2) now.mig[a] = b;
        else if (sscanf(line, "draw %d %d", &a, &b) == 2) now.draw[a] = (unsigned)b;
        else if (sscanf(line, "xid %d %d", &a, &b) == 2 && now.xids < MAX_RULES) {
            now.xid[now.xids].gpu = a;
            now.xid[now.xids++].code = b;
        }
    }
    if (file) fclose(file);
}

/* With the lock held: take the orders in force. */
static void look(void) {
    const char *path = getenv("FAKE_NVML");
    struct stat st;
    if (!path || stat(path, &st)) memset(&st, 0, sizeof st);
    if (now.count && st.st_ino == seen.st_ino && st.st_mtim.tv_nsec == seen.st_mtim.tv_nsec && st.st_size == seen.st_size)
        return;
    seen = st;
    read_orders(path ? path : "/nonexistent");
}

/* What a call that concerns `gpu` (-1: none) comes to before it does its work. Hangs where it was told to. */
static ret_t enter(const char *function, int gpu) {
    ret_t ret = OK;
    pthread_mutex_lock(&lock);
    look();
    while (gpu >= 0 && now.hang[gpu]) {
        pthread_mutex_unlock(&lock);
        usleep(5000);
        pthread_mutex_lock(&lock);
        look();
    }
    if (!initialised) ret = UNINITIALIZED;
    else if (gpu >= 0 && (latched[gpu] |= now.lost[gpu])) ret = LOST;
    else if (gpu >= 0 && now.away[gpu]) ret = LOST;
    else
        for (int i = 0; i < now.rules; i++)
            if (!strcmp(now.rule[i].function, function)) ret = now.rule[i].code;
    pthread_mutex_unlock(&lock);
    return ret;
}
/* What a constant power in watts comes to, in mJ, since the machine was started. */
static u64 drawn_mj(unsigned watts) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (u64)(watts * (at.tv_sec * 1e3 + at.tv_nsec / 1e6));
}

#define ENTER(gpu) do { ret_t r = enter(__func__, gpu); if (r) return r; } while (0)
#define WHOLE(dev) do { ENTER((dev)->gpu); if ((dev)->mig >= 0) return NOT_SUPPORTED; } while (0)

ret_t nvmlInitWithFlags(unsigned flags) {
    ret_t ret;
    (void)flags;
    pthread_mutex_lock(&lock);
    look();
    while (now.hang_init) {
        pthread_mutex_unlock(&lock);
        usleep(5000);
        pthread_mutex_lock(&lock);
        look();
    }
    ret = now.init;
    if (!ret && !initialised++)
        for (int i = 0; i < MAX; i++) latched[i] = now.lost[i];
    pthread_mutex_unlock(&lock);
    return ret;
}
ret_t nvmlShutdown(void) {
    ENTER(-1);
    pthread_mutex_lock(&lock);
    initialised--;
    pthread_mutex_unlock(&lock);
    return OK;
}
const char *nvmlErrorString(ret_t code) { (void)code; return "an error of the fake"; }
ret_t nvmlSystemGetDriverVersion(char *text, unsigned n) { ENTER(-1); snprintf(text, n, "580.95.05"); return OK; }
ret_t nvmlSystemGetProcessName(unsigned pid, char *text, unsigned n) {
    ENTER(-1);
    snprintf(text, n, pid % 2 ? "VLLM::EngineCore" : "/usr/bin/python%u --token=secret", 3);
    return OK;
}
ret_t nvmlDeviceGetCount_v2(unsigned *n) {
    ENTER(-1);
    *n = 0;
    for (int i = 0; i < now.count; i++) *n += !now.away[i];
    return OK;
}
ret_t nvmlDeviceGetHandleByIndex_v2(unsigned index, device **dev) {
    ENTER(-1);
    for (int i = 0; i < now.count; i++)
        if (!now.away[i] && !index--) {
            ENTER(i);
            whole[i] = (device){i, -1};
            *dev = &whole[i];
            return OK;
        }
    return INVALID;
}
ret_t nvmlDeviceGetName(device *dev, char *text, unsigned n) {
    ENTER(dev->gpu);
    snprintf(text, n, dev->mig < 0 ? "NVIDIA H100 80GB HBM3" : "NVIDIA H100 80GB HBM3 MIG 1g.10gb");
    return OK;
}
ret_t nvmlDeviceGetUUID(device *dev, char *text, unsigned n) {
    ENTER(dev->gpu);
    if (dev->mig < 0) snprintf(text, n, "GPU-%08d-0000-0000-0000-000000000000", dev->gpu);
    else snprintf(text, n, "MIG-%08d-0000-0000-0000-%012d", dev->gpu, dev->mig);
    return OK;
}
ret_t nvmlDeviceGetMemoryInfo(device *dev, memory_t *m) {
    ENTER(dev->gpu);
    m->total = dev->mig < 0 ? 80ULL << 30 : 10ULL << 30;
    m->used = dev->mig < 0 ? (20ULL + dev->gpu) << 30 : 3ULL << 30;
    m->free = m->total - m->used;
    return OK;
}
ret_t nvmlDeviceGetUtilizationRates(device *dev, rates_t *r) {
    WHOLE(dev);
    *r = (rates_t){90, 35};
    return now.mig[dev->gpu] ? NOT_SUPPORTED : OK;
}
ret_t nvmlDeviceGetTemperature(device *dev, unsigned sensor, unsigned *c) {
    WHOLE(dev);
    (void)sensor;
    *c = now.temperature[dev->gpu];
    return OK;
}
ret_t nvmlDeviceGetTemperatureThreshold(device *dev, unsigned which, unsigned *c) {
    WHOLE(dev);
    *c = which ? 87 : 92;
    return OK;
}
#define NUMBER(NAME, TYPE, EXPRESSION) \
    ret_t NAME(device *dev, TYPE *out) { WHOLE(dev); *out = (EXPRESSION); return OK; }
NUMBER(nvmlDeviceGetPowerUsage, unsigned, 312345 + dev->gpu)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, unsigned, 700000)
NUMBER(nvmlDeviceGetTotalEnergyConsumption, u64, 5000000000ULL + drawn_mj(now.draw[dev->gpu]))
NUMBER(nvmlDeviceGetFanSpeed, unsigned, 40)
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, u64, now.throttle[dev->gpu])
#ifndef OLD_DRIVER
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, u64, now.throttle[dev->gpu])
#endif
NUMBER(nvmlDeviceGetSupportedEventTypes, u64, 0x1F)
NUMBER(nvmlDeviceGetMaxMigDeviceCount, unsigned, 7)

#define CHOSEN(NAME, TYPE, EXPRESSION) \
    ret_t NAME(device *dev, unsigned which, TYPE *out) { WHOLE(dev); *out = (EXPRESSION); return OK; }
CHOSEN(nvmlDeviceGetClockInfo, unsigned, 1980 - 10 * which)
CHOSEN(nvmlDeviceGetMaxClockInfo, unsigned, 2000 - 10 * which)
CHOSEN(nvmlDeviceGetPcieThroughput, unsigned, 1500 + which)

ret_t nvmlDeviceGetTotalEccErrors(device *dev, unsigned kind, unsigned counter, u64 *n) {
    WHOLE(dev);
    (void)counter;
    *n = kind ? 0 : 3;
    return OK;
}
ret_t nvmlDeviceGetMigMode(device *dev, unsigned *current, unsigned *pending) {
    WHOLE(dev);
    *current = *pending = now.mig[dev->gpu] > 0;
    return OK;
}
ret_t nvmlDeviceGetMigDeviceHandleByIndex(device *dev, unsigned index, device **child) {
    WHOLE(dev);
    if (index >= (unsigned)now.mig[dev->gpu]) return NOT_FOUND;
    part[dev->gpu][index] = (device){dev->gpu, (int)index};
    *child = &part[dev->gpu][index];
    return OK;
}
/* A process that computes; a second one on GPU 0. With MIG each device has its own and the whole GPU lists them all. */
ret_t nvmlDeviceGetComputeRunningProcesses_v3(device *dev, unsigned *n, process_t *list) {
    unsigned room = *n, have = dev->gpu == 0 && dev->mig < 0 ? 2 : 1;
    ENTER(dev->gpu);
    *n = have;
    if (room < have) return TOO_SMALL;
    list[0] = (process_t){1001 + 10 * dev->gpu + 2 * (dev->mig + 1), 18ULL << 30, 0, 0};
    if (have == 2) list[1] = (process_t){2002, 1ULL << 30, 0, 0};
    return OK;
}
ret_t nvmlDeviceGetGraphicsRunningProcesses_v3(device *dev, unsigned *n, process_t *list) {
    (void)list;
    ENTER(dev->gpu);
    *n = 0;
    return OK;
}
#ifndef OLD_DRIVER
ret_t nvmlDeviceGetRemappedRows(device *dev, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed) {
    WHOLE(dev);
    *corrected = 2, *uncorrected = 1, *pending = 0, *failed = 0;
    return OK;
}
ret_t nvmlDeviceGetFieldValues(device *dev, int n, field_t *fields) {
    WHOLE(dev);
    for (int i = 0; i < n; i++) {
        fields[i].ret = OK;
        if (fields[i].field == 82) fields[i].type = 1, fields[i].value.ui = 61;
        else if (fields[i].field == 138 && fields[i].scope == 0xFFFFFFFF) fields[i].type = 3, fields[i].value.ull = 1000;
        else if (fields[i].field == 139 && fields[i].scope == 0xFFFFFFFF) fields[i].type = 3, fields[i].value.ull = 2000;
        else fields[i].ret = NOT_SUPPORTED;
    }
    return OK;
}
#endif
ret_t nvmlEventSetCreate(void **set) { ENTER(-1); *set = &delivered; return OK; }
ret_t nvmlEventSetFree(void *set) { (void)set; return OK; }
ret_t nvmlDeviceRegisterEvents(device *dev, u64 types, void *set) { WHOLE(dev); (void)types, (void)set; return OK; }
ret_t nvmlEventSetWait_v2(void *set, event_t *event, unsigned timeout_ms) {
    (void)set;
    for (unsigned waited_ms = 0;; waited_ms += 50) {
        ENTER(-1);
        pthread_mutex_lock(&lock);
        if (delivered < now.xids) {
            int gpu = now.xid[delivered].gpu;
            *event = (event_t){&whole[gpu], 8, (u64)now.xid[delivered].code, 0xFFFFFFFF, 0xFFFFFFFF};
            delivered++;
            pthread_mutex_unlock(&lock);
            return OK;
        }
        pthread_mutex_unlock(&lock);
        if (waited_ms >= timeout_ms) return TIMEOUT;
        usleep(50000);
    }
}
