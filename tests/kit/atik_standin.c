/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A stand-in for libatikcameras.so: the functions that the driver uses, behaving as the vendor's
 * public header describes them. Built and loaded by tests/contract/test_detector_atik.py.
 *
 * Time is CLOCK_MONOTONIC. What it is comes from the environment at ArtemisConnect, what fails is
 * looked up in each call:
 *   ATIK_STANDIN_SERIALS   serials of the cameras, separated by commas (default "24680")
 *   ATIK_STANDIN_COOLING   ARTEMIS_COOLING_INFO_* bits (default 31: all of has, controllable,
 *                          on/off, power, set point)
 *   ATIK_STANDIN_READOUT   read-out time, ms (default 20)
 *   ATIK_STANDIN_FAULT     absent, in_use, connect, lost, zero, state_error, no_image, idle, stale,
 *                          short, never_idle, no_buffer, code:FUNCTION (OPERATION_FAILED),
 *                          wedge:FUNCTION (never returns)
 *
 * Pixel (column, row) of the sensor, from 0, in frame n (from 1) has
 *   offset + (column + 3 row + 17 n) mod 1000
 * and a binned pixel is the sum of those in it, at most 65535.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { OK, INVALID_PARAMETER, NOT_CONNECTED, NOT_IMPLEMENTED, NO_RESPONSE, INVALID_FUNCTION,
       NOT_INITIALIZED, OPERATION_FAILED };
enum { ERROR = -1, IDLE, WAITING, EXPOSING, READING, DOWNLOADING, FLUSHING };
enum { WIDTH = 96, HEIGHT = 72, MAX_BIN = 4, SLOTS = 5, AMBIENT = 1800, FLUSH_MS = 30 };

struct properties {
    int protocol, width, height;
    float microns_x, microns_y;
    int ccd_flags, camera_flags;
    char description[40], manufacturer[40];
};

static struct camera {
    bool connected, exposing, aborted, has_image;
    double begin_s, length_s, abort_s;
    int bin, x, y, w, h;               /* of the next exposure */
    int image_bin, image_x, image_y, image_w, image_h;
    int frame;
    uint16_t preset, gain, offset, speed;
    int power, setpoint;               /* setpoint in hundredths of a degree */
    bool cooling, by_setpoint, warming;
    double temperature, temperature_s; /* hundredths; when it was worked out */
    int slot, slot_target;
    double slot_s;
    int serial_index;
    uint16_t pixels[WIDTH * HEIGHT];
} camera;

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static const char *setting(const char *name, const char *otherwise)
{
    const char *value = getenv(name);
    return value && *value ? value : otherwise;
}

static bool fault(const char *name)
{
    return strcmp(setting("ATIK_STANDIN_FAULT", ""), name) == 0;
}

/* Ends here for ever, or tells whether the call must fail. */
static bool fails(const char *function)
{
    const char *wanted = setting("ATIK_STANDIN_FAULT", "");
    if (!strncmp(wanted, "wedge:", 6) && !strcmp(wanted + 6, function))
        for (;;) sleep(3600);
    return !strncmp(wanted, "code:", 5) && !strcmp(wanted + 5, function);
}

#define ENTER(handle)                                                                             \
    do {                                                                                          \
        if (fails(__func__)) return OPERATION_FAILED;                                             \
        if ((handle) != &camera || !camera.connected) return INVALID_PARAMETER;                   \
        if (fault("lost")) return NOT_CONNECTED;                                                  \
    } while (0)

static int cooling_bits(void) { return atoi(setting("ATIK_STANDIN_COOLING", "31")); }
static double readout_s(void) { return 1e-3 * atoi(setting("ATIK_STANDIN_READOUT", "20")); }

/* --- the camera through time ------------------------------------------------------------- */

static void cool(void)
{
    double goal = AMBIENT, step = 1500 * (now_s() - camera.temperature_s); /* 15 degrees per s */
    if (camera.cooling)
        goal = camera.by_setpoint ? camera.setpoint : AMBIENT - 20.0 * camera.power;
    if (camera.temperature > goal)
        camera.temperature = camera.temperature - step < goal ? goal : camera.temperature - step;
    else
        camera.temperature = camera.temperature + step > goal ? goal : camera.temperature + step;
    if (camera.by_setpoint)
        camera.power = camera.cooling ? (camera.temperature > goal + 10 ? 255 : 120) : 0;
    if (camera.warming && camera.temperature >= AMBIENT)
        camera.warming = false;
    camera.temperature_s = now_s();
}

static void read_image(void)
{
    const int b = camera.image_bin;
    memset(camera.pixels, 0, sizeof camera.pixels);
    if (fault("zero")) return;
    for (int j = 0; j < camera.image_h; j++)
        for (int i = 0; i < camera.image_w; i++) {
            unsigned sum = 0;
            for (int v = 0; v < b; v++)
                for (int u = 0; u < b; u++) {
                    const int x = camera.image_x + i * b + u, y = camera.image_y + j * b + v;
                    sum += camera.offset + (x + 3 * y + 17 * camera.frame) % 1000;
                }
            camera.pixels[j * camera.image_w + i] = sum > 65535 ? 65535 : sum;
        }
}

static int state(void)
{
    const double t = now_s();
    if (fault("state_error")) return ERROR;
    if (fault("never_idle")) return FLUSHING;
    if (camera.aborted) {
        if (t - camera.abort_s < 1e-3 * FLUSH_MS) return FLUSHING;
        camera.aborted = false;
    }
    if (!camera.exposing) return IDLE;
    if (fault("idle")) return IDLE;
    if (t < camera.begin_s + 0.002) return WAITING;
    if (t < camera.begin_s + camera.length_s) return EXPOSING;
    if (t < camera.begin_s + camera.length_s + 0.5 * readout_s()) return READING;
    if (t < camera.begin_s + camera.length_s + readout_s() || fault("no_image"))
        return DOWNLOADING;
    camera.exposing = false;
    camera.has_image = true;
    camera.frame++;
    read_image();
    return IDLE;
}

/* --- library and devices ----------------------------------------------------------------- */

int ArtemisAPIVersion(void) { return 20200904; }
int ArtemisRefreshDevicesCount(void) { return 0; }

int ArtemisDeviceCount(void)
{
    if (fails(__func__) || fault("absent")) return 0;
    int count = 1;
    for (const char *c = setting("ATIK_STANDIN_SERIALS", "24680"); *c; c++) count += *c == ',';
    return count + 1; /* the last is a filter wheel, no camera */
}

bool ArtemisDeviceIsCamera(int device) { return device >= 0 && device < ArtemisDeviceCount() - 1; }
bool ArtemisDeviceInUse(int device) { (void)device; return fault("in_use"); }

bool ArtemisDeviceName(int device, char *name)
{
    if (device < 0 || device >= ArtemisDeviceCount()) return false;
    strcpy(name, "Atik Stand-in");
    return true;
}

bool ArtemisDeviceSerial(int device, char *serial)
{
    const char *from = setting("ATIK_STANDIN_SERIALS", "24680");
    if (device < 0 || device >= ArtemisDeviceCount()) return false;
    for (; device > 0 && from; device--) from = strchr(from, ',') ? strchr(from, ',') + 1 : NULL;
    if (!from) return strcpy(serial, "EFW"), true;
    const size_t length = strcspn(from, ",");
    memcpy(serial, from, length);
    serial[length] = 0;
    return true;
}

void *ArtemisConnect(int device)
{
    if (fails(__func__) || fault("connect") || !ArtemisDeviceIsCamera(device)) return NULL;
    const struct camera old = camera;
    memset(&camera, 0, sizeof camera);
    camera.connected = true;
    camera.serial_index = device;
    camera.bin = 2; /* as another program left it */
    camera.w = camera.h = 8;
    camera.preset = 1;
    camera.offset = 100;
    camera.temperature = old.temperature_s ? old.temperature : AMBIENT;
    camera.temperature_s = now_s();
    return &camera;
}

bool ArtemisIsConnected(void *h) { return h == &camera && camera.connected && !fault("lost"); }

bool ArtemisDisconnect(void *h)
{
    if (h != &camera || !camera.connected) return false;
    camera.connected = false;
    return true;
}

int ArtemisProperties(void *h, struct properties *p)
{
    ENTER(h);
    *p = (struct properties){7, WIDTH, HEIGHT, 3.76f, 3.76f, 0, 1, "Stand-in", "Nightjar tests"};
    return OK;
}

/* --- settings ---------------------------------------------------------------------------- */

int ArtemisGetMaxBin(void *h, int *x, int *y) { ENTER(h); *x = *y = MAX_BIN; return OK; }

int ArtemisBin(void *h, int x, int y)
{
    ENTER(h);
    if (x != y || x < 1 || x > MAX_BIN || camera.exposing) return INVALID_PARAMETER;
    camera.bin = x;
    return OK;
}

int ArtemisSubframe(void *h, int x, int y, int w, int he)
{
    ENTER(h);
    if (x < 0 || y < 0 || w < 1 || he < 1 || x + w > WIDTH || y + he > HEIGHT || camera.exposing)
        return INVALID_PARAMETER;
    camera.x = x, camera.y = y, camera.w = w, camera.h = he;
    return OK;
}

int ArtemisGetSubframe(void *h, int *x, int *y, int *w, int *he)
{
    ENTER(h);
    *x = camera.x, *y = camera.y, *w = camera.w, *he = camera.h;
    return OK;
}

int ArtemisEightBitMode(void *h, bool on) { ENTER(h); return on ? INVALID_FUNCTION : OK; }
int ArtemisSetPreview(void *h, bool on) { ENTER(h); (void)on; return INVALID_FUNCTION; }
int ArtemisSetSubSample(void *h, bool on) { ENTER(h); (void)on; return NOT_IMPLEMENTED; }

static uint16_t *option(int id)
{
    switch (id) {
    case 1: return &camera.preset;
    case 5: return &camera.gain;
    case 6: return &camera.offset;
    case 14: return &camera.speed;
    default: return NULL;
    }
}

bool ArtemisHasCameraSpecificOption(void *h, unsigned short id)
{
    return h == &camera && option(id) != NULL;
}

int ArtemisCameraSpecificOptionGetData(void *h, unsigned short id, unsigned char *data, int size,
                                       int *actual)
{
    ENTER(h);
    if (!option(id)) return INVALID_PARAMETER;
    const uint16_t ranged[3] = {0, id == 5 ? 60 : 511, *option(id)};
    const bool has_range = id == 5 || id == 6;
    *actual = has_range ? 6 : 2;
    if (size < *actual) return INVALID_PARAMETER;
    memcpy(data, has_range ? ranged : option(id), *actual);
    return OK;
}

int ArtemisCameraSpecificOptionSetData(void *h, unsigned short id, unsigned char *data, int size)
{
    uint16_t value;
    ENTER(h);
    if (!option(id) || size != 2) return INVALID_PARAMETER;
    memcpy(&value, data, 2);
    if ((id == 5 && value > 60) || (id == 6 && value > 511)) return INVALID_PARAMETER;
    if ((id == 5 || id == 6) && camera.preset != 0) return OPERATION_FAILED;
    *option(id) = value;
    return OK;
}

/* --- exposures --------------------------------------------------------------------------- */

int ArtemisStartExposure(void *h, float seconds)
{
    ENTER(h);
    if (seconds < 0.0005f) return INVALID_PARAMETER;
    if (state() != IDLE) return OPERATION_FAILED;
    camera.exposing = true;
    camera.has_image = fault("stale");
    camera.begin_s = now_s();
    camera.length_s = seconds;
    camera.image_bin = camera.bin, camera.image_x = camera.x, camera.image_y = camera.y;
    camera.image_w = camera.w / camera.bin, camera.image_h = camera.h / camera.bin;
    return OK;
}

int ArtemisAbortExposure(void *h)
{
    ENTER(h);
    state();
    if (camera.exposing) {
        camera.aborted = true;
        camera.abort_s = now_s();
    }
    camera.exposing = camera.has_image = false;
    return OK;
}

bool ArtemisImageReady(void *h)
{
    if (fails(__func__) || !ArtemisIsConnected(h)) return false;
    state();
    return camera.has_image;
}

int ArtemisCameraState(void *h)
{
    if (fails(__func__) || !ArtemisIsConnected(h)) return ERROR;
    return state();
}

int ArtemisGetImageData(void *h, int *x, int *y, int *w, int *he, int *bx, int *by)
{
    ENTER(h);
    if (!camera.has_image) return OPERATION_FAILED;
    *x = camera.image_x, *y = camera.image_y;
    *w = camera.image_w, *he = camera.image_h - fault("short");
    *bx = *by = camera.image_bin;
    return OK;
}

void *ArtemisImageBuffer(void *h)
{
    return h == &camera && camera.has_image && !fault("no_buffer") ? camera.pixels : NULL;
}

float ArtemisLastExposureDuration(void *h) { (void)h; return camera.length_s; }

/* --- temperature ------------------------------------------------------------------------- */

int ArtemisTemperatureSensorInfo(void *h, int sensor, int *value)
{
    ENTER(h);
    if (sensor < 0 || sensor > 1) return INVALID_PARAMETER;
    cool();
    *value = sensor == 0 ? 1 : (int)camera.temperature;
    return OK;
}

int ArtemisSetCooling(void *h, int setpoint)
{
    ENTER(h);
    if (!(cooling_bits() & 16)) return INVALID_FUNCTION;
    cool();
    camera.cooling = camera.by_setpoint = true;
    camera.warming = false;
    camera.setpoint = setpoint;
    return OK;
}

int ArtemisSetCoolingPower(void *h, int power)
{
    ENTER(h);
    if (!(cooling_bits() & 8)) return INVALID_FUNCTION;
    if (power < 0 || power > 255) return INVALID_PARAMETER;
    cool();
    camera.cooling = power > 0;
    camera.by_setpoint = false;
    camera.power = power;
    return OK;
}

int ArtemisCoolerWarmUp(void *h)
{
    ENTER(h);
    cool();
    camera.cooling = false;
    camera.warming = true;
    return OK;
}

int ArtemisCoolingInfo(void *h, int *flags, int *level, int *least, int *most, int *setpoint)
{
    ENTER(h);
    cool();
    *flags = cooling_bits() | (camera.warming ? 32 : 0) | (camera.cooling ? 64 : 0)
             | (camera.by_setpoint ? 128 : 0);
    *level = camera.power, *least = 0, *most = 255, *setpoint = camera.setpoint;
    return OK;
}

/* --- filter wheel: 50 ms a slot ---------------------------------------------------------- */

static bool is_wheel_moving(void)
{
    if (camera.slot != camera.slot_target
        && now_s() - camera.slot_s > 0.05 * abs(camera.slot - camera.slot_target))
        camera.slot = camera.slot_target;
    return camera.slot != camera.slot_target;
}

int ArtemisFilterWheelInfo(void *h, int *count, int *moving, int *position, int *target)
{
    ENTER(h);
    *moving = is_wheel_moving();
    *count = SLOTS, *position = camera.slot, *target = camera.slot_target;
    return OK;
}

int ArtemisFilterWheelMove(void *h, int target)
{
    ENTER(h);
    if (target < 0 || target >= SLOTS) return INVALID_PARAMETER;
    is_wheel_moving();
    camera.slot_target = target;
    camera.slot_s = now_s();
    return OK;
}
